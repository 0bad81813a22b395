"""Short fits of tiny language models."""

from __future__ import annotations

import lightning as L

import dplit
from tests.models.tiny import Texts

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def fit(model, path, family="bert", strategy=None, **options):
    strategy = strategy or dplit.DPStrategy(noise=0.5, physical_batch_size=8, noise_seed=1)
    settings = {"max_steps": 3, "max_epochs": 3, **QUIET, **options}
    trainer = L.Trainer(strategy=strategy, default_root_dir=path, **settings)
    trainer.fit(model, datamodule=Texts(family))
    return trainer


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def trained(model):
    model.configure_model()
    return {name for name, weight in model.named_parameters() if weight.requires_grad}
