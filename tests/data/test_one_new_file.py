"""A new data set is one new file in a checkout: the contract tests take it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkout import attempt, copied, passed

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


LAWS = ("tests/data/test_contract.py", "-k", "Invented")


def with_file(place: Path, text: str) -> Path:
    return copied(place, {"dplit/data/invented.py": text})


@pytest.mark.slow
def test_the_contract_tests_take_it(tmp_path: Path) -> None:
    assert passed(with_file(tmp_path, NEW), *LAWS) >= 18


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
    ran = attempt(with_file(tmp_path, fitted), "-m", "pytest", *LAWS, "-q", "-p", "no:cacheprovider")
    assert "test_a_row_is_encoded_by_itself[Invented]" in ran.stdout
