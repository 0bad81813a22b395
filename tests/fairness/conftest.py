"""A quiet trainer in a directory of its own."""

from __future__ import annotations

import pytest
from lightning.pytorch import Trainer


@pytest.fixture
def trainer(tmp_path):
    def build(*callbacks, **options):
        quiet = {
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
        }
        settings = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "enable_model_summary": False}
        return Trainer(callbacks=list(callbacks), **{**quiet, **settings, **options})

    return build
