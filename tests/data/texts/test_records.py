"""Texts before they are encoded: splits of units, and copies behind their records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dplit.data import base
from dplit.data.texts.records import Records


def law_no_unit_is_in_two_splits(unit, fraction):
    unit = np.asarray(unit, np.int64)
    records = Records([str(i) for i in range(len(unit))], unit, unit, unit)
    kept, held_out = records.split(fraction)
    assert not set(kept.unit) & set(held_out.unit)
    assert sorted([*kept.text, *held_out.text], key=int) == records.text
    assert len(set(held_out.unit)) == min(max(round(len(set(unit)) * fraction), 1), len(set(unit)) - 1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-3, 9), min_size=1, max_size=40), st.sampled_from([0.1, 0.5]))
def test_no_unit_is_in_two_splits(unit, fraction):
    law_no_unit_is_in_two_splits(unit, fraction)


def test_mutant_split_by_row(monkeypatch):
    def by_row(self, fraction):
        held_out, kept = base.split(len(self), fraction)
        return self.part(kept), self.part(held_out)

    monkeypatch.setattr(Records, "split", by_row)
    with pytest.raises(AssertionError):
        law_no_unit_is_in_two_splits([0, 0, 0, 1, 1, 1, 2, 2], 0.5)


def test_copies_stand_behind_the_records_and_differ_in_the_text_alone():
    records = Records(["a", "b", "c"], np.array([0, 1, 2]), np.array([5, 6, 7]), np.array([8, 8, 9]))
    copies = records.with_copies([["A"], [], ["C", "X"]])
    assert copies.text == ["a", "b", "c", "A", "C", "X"]
    assert copies.y.tolist() == [0, 1, 2, 0, 2, 2]
    assert copies.group.tolist() == [5, 6, 7, 5, 7, 7]
    assert copies.unit.tolist() == [8, 8, 9, 8, 9, 9]


def test_units_are_numbered_as_they_appear():
    first, second = (
        Records(list("abcd"), *[np.zeros(4, np.int64)] * 2, np.array(unit)) for unit in ([7, 3, 7, 5], [0, 1, 0, 2])
    )
    assert [part.text for part in first.split(0.4)] == [part.text for part in second.split(0.4)]
