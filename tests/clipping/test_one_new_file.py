"""A new policy is one new file in a checkout: contract tests, the table in the docs and `compare` take it as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clipping.test_catalogue import NEW

ROOT = Path(__file__).parents[2]
RECIPE = """
base: adult_flat
epsilon: [3]
seeds: [0]
nonprivate: false
variants:
  Half: {trainer.strategy.init_args.policy: {class_path: dplit.clipping.Half}}
smoke: {trainer.max_epochs: 1, trainer.limit_train_batches: 3}
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one file more."""
    copy = tmp_path_factory.mktemp("checkout")
    for part in ("dplit", "recipes", "tests", "docs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "dplit" / "clipping" / "half.py").write_text(NEW, encoding="utf-8")
    (copy / "half.yaml").write_text(RECIPE, encoding="utf-8")
    return copy


def run(checkout: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=checkout, env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_the_contract_tests_take_it(checkout: Path) -> None:
    laws = ["tests/clipping/test_policy.py", "tests/clipping/test_charges.py", "tests/test_ten_ways.py"]
    said = run(checkout, "pytest", *laws, "-q", "-k", "Half", "-p", "no:cacheprovider")
    assert int(said.rsplit(" passed", 1)[0].split()[-1]) >= 15


@pytest.mark.slow
def test_the_table_in_the_docs_takes_it(checkout: Path) -> None:
    assert "| `Half` | wᵢ = min(1, ½/‖gᵢ‖). | ½. | none. | σ. |" in run(checkout, "dplit.clipping")


@pytest.mark.slow
def test_compare_takes_it(checkout: Path) -> None:
    run(checkout, "dplit.compare", "half.yaml", "--smoke", "--out", "out", "--jobs", "1")
    assert "Half" in (checkout / "out" / "report.html").read_text(encoding="utf-8")
    assert "Half" in (checkout / "out" / "results.csv").read_text(encoding="utf-8")
