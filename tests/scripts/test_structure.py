"""The structure figures, on a tiny fabricated checkout whose figures are counted by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import structure
from scripts.structure import Checkout, duplicated_blocks

ROOT = Path(__file__).parents[2]

FILES = {
    "pyproject.toml": """
[project]
name = "dplit"
dependencies = ["torch>=2", "lightning", "pyyaml", "Pillow>=10"]
[project.optional-dependencies]
fast = ["numpy"]
""",
    "dplit/__init__.py": "from dplit.strategy import DPStrategy\n",
    "dplit/__main__.py": "print('main')\n",
    "dplit/strategy.py": '''"""Not private at all."""
from lightning.pytorch.strategies import SingleDeviceStrategy
from dplit.losses.means import mean
from typing import Any

class DPStrategy(SingleDeviceStrategy):
    def __init__(self, noise: float, physical_batch_size: int) -> None:
        super().__init__("cpu")

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        """Any in a docstring counts too."""
        return mean(super().training_step(*arguments, **options))
''',
    "dplit/losses/means.py": '''from dplit.losses import sums
import numpy, PIL.Image, pandas, os

def mean(losses):  # type: ignore
    """The same code as elsewhere."""
    total = sums.total(losses)
    return total / len(losses)
''',
    "dplit/losses/sums.py": """def total(losses):
    return losses.sum()

def unused(losses):
    first = losses[0]
    second = losses[1]
    third = losses[2]
    fourth = losses[3]
    fifth = losses[4]
    return first + second + third + fourth + fifth
""",
    "dplit/losses/again.py": """class Again:
    def method(losses):
        # a comment
        first = losses[0]
        second = losses[1]
        third = losses[2]
        fourth = losses[3]
        fifth = (
            losses[4]
        )
        return first + second + third + fourth + fifth
""",
    "tests/losses/test_sums.py": "",
    "tests/test_strategy.py": "",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Checkout(tmp_path)


def test_what_is_counted(checkout: Checkout) -> None:
    assert checkout.root_files() == ["dplit/__init__.py", "dplit/__main__.py", "dplit/strategy.py"]
    assert len(checkout.modules()) == 4
    assert checkout.count(r"\bAny\b") == 5
    assert checkout.count("type: ignore") == 1
    assert sorted(checkout.function_lengths()) == [2, 2, 3, 4, 7, 10]
    assert checkout.modules_without_test() == ["dplit/losses/again.py", "dplit/losses/means.py"]


def test_a_test_of_the_folder_counts(checkout: Checkout) -> None:
    (checkout.root / "tests" / "test_losses.py").write_text("")
    assert checkout.modules_without_test() == []


def test_dependencies_are_held_against_imports(checkout: Checkout) -> None:
    assert checkout.missing_dependencies() == ["pandas"]
    assert checkout.unused_dependencies() == ["pyyaml", "torch"]


def test_equal_code_is_found_whatever_its_comments_and_indentation(checkout: Checkout) -> None:
    (block,) = checkout.duplicated_blocks()
    assert (block.module, block.lines) == ("dplit/losses/sums.py", 6)


def test_blocks_are_as_long_as_they_can_be_and_counted_once() -> None:
    code = {"a": list("abcdefghxx"), "b": list("zzabcdefghyy"), "c": list("abcdeq")}
    assert duplicated_blocks(code, 6) == [structure.Block("b", 3, 8)]
    assert duplicated_blocks({"a": ["x"] * 5}, 6) == []
    assert duplicated_blocks({"a": list("abcabc")}, 3) == [structure.Block("a", 4, 3)]


def test_a_step_is_traced_through_the_checkout_s_own_package(checkout: Checkout) -> None:
    trace = checkout.trace()
    assert trace is not None
    assert trace["files"] == ["losses/means.py", "losses/sums.py", "strategy.py"]
    assert trace["hops"] == [["losses/means.py", "losses/sums.py"], ["strategy.py", "losses/means.py"]]
    assert (trace["strategy_entries"], trace["strategy_entries_from_outside"]) == (1, 1)


@pytest.mark.slow
def test_a_checkout_that_cannot_train_has_the_other_figures(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout.root / "dplit" / "strategy.py").write_text("DPStrategy = None\n")
    assert structure.main([str(checkout.root)]) == 0
    output, error = capsys.readouterr()
    assert "| files of one batch | – |" in output
    assert "| modules without a test file | 2 of 4 |" in output
    assert "the training step was not traced: TypeError" in error


@pytest.mark.slow
def test_checkouts_stand_side_by_side(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    assert structure.main(["--no-trace", str(checkout.root), str(ROOT)]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head == f"|  | {checkout.root} | {ROOT} |"
    assert rule == "| --- | ---: | ---: |"
    assert all(row.count("|") == 4 for row in rows)
    assert rows[0].startswith("| files at the root | 3 |")


def test_names_can_be_listed_and_a_wrong_folder_is_refused(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert structure.main(["--list", "missing_dependencies", str(checkout.root)]) == 0
    assert capsys.readouterr().out == "pandas\n"
    with pytest.raises(SystemExit):
        structure.main([str(checkout.root / "tests")])
    assert "is no checkout" in capsys.readouterr().err


def test_it_runs_as_a_script(checkout: Checkout) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "structure.py"), "--no-trace", "."]
    ran = subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "| Any | 5 |" in ran.stdout
