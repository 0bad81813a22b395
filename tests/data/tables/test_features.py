"""Features of a column, against the definition: one bin at a time, one value at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dplit.data.tables import features
from dplit.data.tables.features import Categories, Number, centred, encode, listed, logarithmic, names_of, words

NUMBER = Number("age", 10.0, 90.0, (20.0, 40.0, 65.0))
CATEGORIES = Categories("work", ("a", "b"))


def expected_number(value):
    """Clip and scale, then ask each bin whether it holds the number."""
    clipped = min(max(value, 10.0), 90.0)
    ends = (40.0, 65.0, np.inf)
    bins = [float(edge <= clipped < end) for edge, end in zip(NUMBER.edges, ends, strict=True)]
    return [2 * (clipped - 10) / 80 - 1, *bins]


def law_a_number_is_scaled_and_in_its_bin():
    values = [-5.0, 10.0, 19.999, 20.0, 40.0, 64.0, 65.0, 90.0, 1e9]
    encoded = NUMBER.encode(pd.Series(values))
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, [expected_number(value) for value in values], rtol=1e-6)


def test_a_number_is_scaled_and_in_its_bin():
    law_a_number_is_scaled_and_in_its_bin()


def test_mutant_bins_that_hold_their_upper_edge(monkeypatch):
    search = np.searchsorted
    monkeypatch.setattr(features.np, "searchsorted", lambda edges, number, side: search(edges, number, side="left"))
    with pytest.raises(AssertionError):
        law_a_number_is_scaled_and_in_its_bin()


def test_a_value_has_one_column_and_others_share_the_last():
    encoded = CATEGORIES.encode(pd.Series(["b", "a", "c", ""]))
    assert encoded.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_a_table_is_its_columns_side_by_side():
    rows = pd.DataFrame({"work": ["a", "c"], "age": [50.0, 15.0]})
    columns = [NUMBER.encode(rows["age"]), CATEGORIES.encode(rows["work"])]
    assert np.array_equal(encode([NUMBER, CATEGORIES], rows), np.column_stack(columns))
    assert encode([NUMBER, CATEGORIES], rows.head(0)).shape == (0, 7)
    assert names_of([NUMBER, CATEGORIES]) == (
        *("age", "age in [20, 40)", "age in [40, 65)", "age in [65, inf)"),
        *("work=a", "work=b", "work=other"),
    )


@pytest.mark.parametrize(("scale", "ends"), [(centred, (-1, 1)), (logarithmic, (0, 1))])
def test_a_scale_goes_up_from_end_to_end(scale, ends):
    scaled = scale(np.linspace(3, 11, 9), 3.0, 11.0)
    assert (scaled[0], scaled[-1]) == ends
    assert (np.diff(scaled) > 0).all()


def test_short_ways_to_declare_values():
    assert words(" a  b\nc ") == ("a", "b", "c")
    assert listed("a b;  c \n d") == ("a b", "c d")
