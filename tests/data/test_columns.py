"""Columns of own files: their cells as text or numbers, and their places in a declared list."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dplit.data.columns import as_numbers, as_text, declare, declared_ids, read_columns
from dplit.errors import ConfigurationError
from tests.data.own import people


def refusal(call, *arguments):
    with pytest.raises(ConfigurationError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (["a", None, ""], ["a", "", ""]),
        ([1, 2, 3], ["1", "2", "3"]),
        ([1.0, None, 3.0], ["1", "", "3"]),
        ([1.5, 2.0], ["1.5", "2.0"]),
        ([True, False], ["True", "False"]),
    ],
)
def test_cells_as_text(cells, texts):
    assert as_text(pd.Series(cells)).tolist() == texts


def test_cells_as_numbers_and_a_declared_number_for_the_others():
    cells = pd.Series(["1", "2.5", "x", None], name="age")
    assert as_numbers(cells, 0.0, "train").tolist() == [1.0, 2.5, 0.0, 0.0]
    assert as_numbers(cells.head(2), None, "train").dtype == np.float64
    assert "train: column 'age' holds 'x' in row 3" in refusal(as_numbers, cells, None, "train")


def test_ids_are_places_in_the_declared_list():
    rows = pd.DataFrame({"sex": ["M", "F", "M"]})
    ids = declared_ids(rows, "sex", ("F", "M"), "train")
    assert (ids.tolist(), ids.dtype) == ([1, 0, 1], np.int64)
    assert "holds 'F' in row 2, outside the declared M" in refusal(declared_ids, rows, "sex", ("M",), "train")


@pytest.mark.parametrize("values", [["a", "a"], [1, "1"], []])
def test_declared_values_are_distinct(values):
    assert "classes=" in refusal(declare, values, "classes")


def test_only_the_asked_columns_come_in_the_asked_order(tmp_path):
    people(20).to_csv(tmp_path / "a.csv", index=False)
    people(20).to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        rows = read_columns(tmp_path / name, ["work", "age", "work"], "train")
        assert list(rows.columns) == ["work", "age"]
        assert as_text(rows["age"]).tolist() == [str(age) for age in people(20)["age"]]


def test_files_are_read_one_after_another(tmp_path):
    for i in range(2):
        people(5, seed=i).to_csv(tmp_path / f"{i}.csv", index=False)
    rows = read_columns([str(tmp_path / "1.csv"), str(tmp_path / "0.csv")], ["age"], "train")
    assert rows["age"].astype(int).tolist() == [*people(5, seed=1)["age"], *people(5)["age"]]


def test_a_column_that_is_not_there_is_named(tmp_path):
    people(5).to_csv(tmp_path / "a.csv", index=False)
    assert "has no column 'wage'; it has age, gain" in refusal(read_columns, tmp_path / "a.csv", ["wage"], "train")
