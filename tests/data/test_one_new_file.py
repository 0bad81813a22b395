"""A new data set is one new file in a checkout: the contract tests take it as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEW = '''"""Three hundred invented people."""

from typing import Any

import numpy as np
import pandas as pd

from dplit.data.tables.base import TableData, train_and_test
from dplit.data.tables.features import Categories, Number
from dplit.data.tables.groupings import groupings

SEX = ("F", "M")


class Invented(TableData):
    """People who were never asked."""

    num_classes = 2
    features = (Number("age", 0, 90, (18, 65)), Categories("sex", SEX))
    groupings = groupings(sex=SEX)
    licence = "invented for a test, free to use"

    def __init__(self, group: str = "sex", **loading: Any) -> None:
        super().__init__(group, **loading)

    def tables(self):
        draw = np.random.RandomState(0)
        return train_and_test(pd.DataFrame({"age": draw.uniform(0, 99, 300), "sex": draw.choice(SEX, 300)}))

    def labels(self, rows):
        return (rows["age"] > 40).to_numpy(np.int64)
'''


def contract(copy: Path, file: str) -> subprocess.CompletedProcess[str]:
    """Run the contract tests of the new class in a copy of the repository with one more file."""
    for part in ("dplit", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "dplit" / "data" / "invented.py").write_text(file, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/data/test_contract.py",
        "-q",
        "-k",
        "Invented",
        "-p",
        "no:cacheprovider",
    ]
    env = {**os.environ, "PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_contract_tests_take_it(tmp_path: Path) -> None:
    ran = contract(tmp_path, NEW)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout.rsplit(" passed", 1)[0].split()[-1]) >= 18


@pytest.mark.slow
def test_mutant_limits_fitted_on_the_rows_are_caught(tmp_path: Path) -> None:
    fitted = (
        NEW
        + """
    def encoded(self, rows):
        examples = super().encoded(rows)
        examples.x -= examples.x.mean(0)
        return examples
"""
    )
    assert "test_a_row_is_encoded_by_itself[Invented]" in contract(tmp_path, fitted).stdout
