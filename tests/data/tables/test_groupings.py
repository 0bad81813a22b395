"""Groups by declared values, against the values in the rows."""

from __future__ import annotations

import pandas as pd
import pytest

from dplit.data.tables.groupings import Grouping, crossed, groupings
from dplit.errors import ConfigurationError

ROWS = pd.DataFrame({"sex": ["F", "M", "M"], "race": ["A", "B", "A"]})


def law_an_id_is_the_place_of_the_rows_values(grouping):
    for i, group in enumerate(grouping.ids(ROWS)):
        assert grouping.names[group] == " ".join(ROWS.loc[i, column] for column in grouping.columns)


@pytest.mark.parametrize("name", ["sex", "race", "sex_race"])
def test_an_id_is_the_place_of_the_rows_values(name):
    law_an_id_is_the_place_of_the_rows_values(groupings(sex=("M", "F"), race=("B", "A"))[name])


def test_mutant_names_in_another_order_than_the_ids(monkeypatch):
    ids = Grouping.ids
    monkeypatch.setattr(Grouping, "ids", lambda self, rows: ids(self, rows)[::-1])
    with pytest.raises(AssertionError):
        law_an_id_is_the_place_of_the_rows_values(groupings(sex=("M", "F"))["sex"])


def test_all_combinations_are_declared_whether_or_not_a_row_has_them():
    assert groupings(sex=("F", "M"), race=("A", "B"))["sex_race"].names == crossed(("F", "M"), ("A", "B"))
    assert set(groupings(a=("x",), b=("y",), c=("z",))) == {"a", "b", "c", "a_b", "a_c", "b_c"}


def test_a_value_that_is_not_declared_is_refused():
    with pytest.raises(ConfigurationError, match="sex has a value outside the declared F;") as refusal:
        Grouping(("sex",), ("F",)).ids(ROWS)
    assert "\n" not in str(refusal.value)
