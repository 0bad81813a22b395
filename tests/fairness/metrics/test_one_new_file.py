"""A new metric is one new file in a checkout: contract tests, fairness.csv and `compare` take it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkout import copied, passed, run
from tests.fairness.metrics.test_catalogue import NEW

FILE = NEW.replace('"ppv"', '"precision"').replace("predictive_parity_difference", "precision_difference")
FIT = """
import csv, sys
from lightning.pytorch import Trainer
from dplit.fairness import FairnessMonitor
from tests.fairness.fairness_project import Model, Project

run = Trainer(
    callbacks=[FairnessMonitor()], max_epochs=1, accelerator="cpu", logger=False, default_root_dir="run",
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
run.fit(Model(), datamodule=Project())
print(sorted(key for key in run.callback_metrics if "precision" in key))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one file more."""
    return copied(tmp_path_factory.mktemp("checkout"), {"dplit/fairness/metrics/precision.py": FILE})


@pytest.mark.slow
def test_the_contract_tests_take_it(checkout: Path) -> None:
    assert passed(checkout, "tests/fairness/metrics", "-k", "precision") >= 12


@pytest.mark.slow
def test_other_tests_of_metrics_do_not_mind(checkout: Path) -> None:
    tests = ["tests/fairness/metrics", "--ignore=tests/fairness/metrics/test_metrics.py"]
    assert passed(checkout, *tests, "-m", "not slow") > 0


@pytest.mark.slow
def test_fairness_csv_the_terminal_and_the_logs_have_it(checkout: Path) -> None:
    said = run(checkout, "-W", "ignore", "-c", FIT)
    lines = (checkout / "run" / "fairness.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[5] for line in lines if ",precision," in line] == ["Female", "Male", "Other"]
    assert sum(",precision_difference," in line for line in lines) == 1
    assert "['fairness/precision_difference']" in said
    assert "precision" in said


@pytest.mark.slow
def test_compare_may_choose_by_it(checkout: Path) -> None:
    code = "from dplit.compare.config.checks import metric; print(metric('precision_difference'))"
    assert run(checkout, "-c", code).strip() == "precision_difference"
