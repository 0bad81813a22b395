"""A new policy is one new file in a checkout: contract tests, the table in the docs and `compare` take it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkout import copied, passed, run
from tests.clipping.test_catalogue import NEW

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
    return copied(tmp_path_factory.mktemp("checkout"), {"dplit/clipping/half.py": NEW, "half.yaml": RECIPE})


@pytest.mark.slow
def test_the_contract_tests_take_it(checkout: Path) -> None:
    laws = ["tests/clipping/test_policy.py", "tests/clipping/test_charges.py", "tests/test_ten_ways.py"]
    assert passed(checkout, *laws, "-k", "Half") >= 15


@pytest.mark.slow
def test_the_table_in_the_docs_takes_it(checkout: Path) -> None:
    assert "| `Half` | wᵢ = min(1, ½/‖gᵢ‖). | ½. | none. | σ. |" in run(checkout, "-m", "dplit.clipping")


@pytest.mark.slow
def test_compare_takes_it(checkout: Path) -> None:
    run(checkout, "-m", "dplit.compare", "half.yaml", "--smoke", "--out", "out", "--jobs", "1")
    assert "Half" in (checkout / "out" / "report.html").read_text(encoding="utf-8")
    assert "Half" in (checkout / "out" / "results.csv").read_text(encoding="utf-8")
