"""Two gloo ranks see the same figures as one, and one of them writes."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pytest

from dplit.fairness import FairnessMonitor
from tests.fairness.fairness_project import Model, Project

SCRIPT = """
import sys
from lightning.pytorch import Trainer
from tests.fairness.fairness_project import Model, Project
from dplit.fairness import FairnessMonitor, monitor

if sys.argv[2] == "alone":
    monitor.across_ranks = lambda trainer, counts: counts
if __name__ == "__main__":
    run = Trainer(
        strategy="ddp_fork", devices=2, accelerator="cpu", max_epochs=1, logger=False, default_root_dir=sys.argv[1],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    run.callbacks.append(FairnessMonitor())
    run.validate(Model(), datamodule=Project(batch_size=8), verbose=False)
"""


def on_two_ranks(directory, how="together"):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(directory), how]
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=places, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    assert done.stdout.count("not private") == 1
    assert [path.name for path in directory.glob("fairness*")] == ["fairness.csv"]
    return pd.read_csv(directory / "fairness.csv")


def law_two_ranks_see_what_one_sees(trainer, tmp_path, how="together"):
    one, two = tmp_path / "one", tmp_path / "two"
    run = trainer(FairnessMonitor(table=False), default_root_dir=one)
    run.validate(Model(), datamodule=Project(batch_size=8), verbose=False)
    pd.testing.assert_frame_equal(pd.read_csv(one / "fairness.csv"), on_two_ranks(two, how), rtol=1e-5)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def test_two_ranks_see_what_one_sees(trainer, tmp_path):
    law_two_ranks_see_what_one_sees(trainer, tmp_path)


def test_mutant_each_rank_alone(trainer, tmp_path):
    with pytest.raises(AssertionError):
        law_two_ranks_see_what_one_sees(trainer, tmp_path, "alone")
