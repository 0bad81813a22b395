"""Two gloo ranks see the same figures as one, and one of them writes."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pytest

from dplit.fairness import FairnessMonitor
from tests.fairness.fairness_project import Model, Project, Texts, Writer

SCRIPT = """
import sys
from lightning.pytorch import Trainer
from tests.fairness import fairness_project
from dplit.fairness import FairnessMonitor
from dplit.fairness.monitor import monitor

if sys.argv[2] == "alone":
    monitor.across_ranks = lambda trainer, counts: counts
if __name__ == "__main__":
    run = Trainer(
        strategy="ddp_fork", devices=2, accelerator="cpu", max_epochs=1, logger=False, default_root_dir=sys.argv[1],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    run.callbacks.append(FairnessMonitor())
    model, data = (getattr(fairness_project, name) for name in sys.argv[3:])
    run.validate(model(), datamodule=data(batch_size=8), verbose=False)
"""
CASES = [(Model, Project), (Writer, Project), (Model, Texts)]


def on_two_ranks(directory, how, *names):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(directory), how, *names]
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=places, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    assert done.stdout.count("not private") == 1
    assert [path.name for path in directory.glob("fairness*")] == ["fairness.csv"]
    return pd.read_csv(directory / "fairness.csv")


def law_two_ranks_see_what_one_sees(trainer, tmp_path, model, data, how="together"):
    one, two = tmp_path / "one", tmp_path / "two"
    run = trainer(FairnessMonitor(table=False), default_root_dir=one)
    run.validate(model(), datamodule=data(batch_size=8), verbose=False)
    found = on_two_ranks(two, how, model.__name__, data.__name__)
    pd.testing.assert_frame_equal(pd.read_csv(one / "fairness.csv"), found, rtol=1e-5)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


@pytest.mark.parametrize(("model", "data"), CASES)
def test_two_ranks_see_what_one_sees(trainer, tmp_path, model, data):
    law_two_ranks_see_what_one_sees(trainer, tmp_path, model, data)


@pytest.mark.parametrize(("model", "data"), CASES)
def test_mutant_each_rank_alone(trainer, tmp_path, model, data):
    with pytest.raises(AssertionError):
        law_two_ranks_see_what_one_sees(trainer, tmp_path, model, data, "alone")
