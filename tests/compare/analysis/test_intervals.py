"""Student's intervals against scipy and closed forms; differences within each seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import t

from dplit.compare.analysis import intervals
from dplit.compare.analysis.intervals import Interval, interval


def test_the_mean_over_seeds_with_one_that_diverged_is_infinite() -> None:
    assert interval([1.0, math.inf, 2.0]).text() == "inf"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_the_interval_is_students(values: list[float]) -> None:
    n, sem = len(values), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    measured = interval(values)
    if sem > 1e-12:
        low, high = t.interval(0.95, n - 1, np.mean(values), sem)
        assert (measured.mean - measured.half, measured.mean + measured.half) == pytest.approx((low, high), abs=1e-12)
    assert (measured.mean, measured.n) == (pytest.approx(np.mean(values)), n)


def test_the_interval_of_two_has_a_closed_form() -> None:
    assert interval([0.0, 1.0]).half == pytest.approx(math.tan(0.475 * math.pi) * 0.5)


def test_one_value_has_no_interval_and_nan_is_left_out() -> None:
    assert interval([0.5, math.nan]).n == 1
    assert math.isnan(interval([0.5]).half)
    assert math.isnan(interval([]).mean)
    assert interval([0.5]).text() == "0.500"
    assert interval([]).text() == "–"
    assert interval([0.0, 1.0]).text(1, 100) == "50.0 ± 635.3"


def test_the_gap_is_taken_within_each_seed() -> None:
    costs = {"a": {0: 1.0, 1: 0.0}, "b": {0: 0.0, 1: 1.0, 2: 5.0}}
    assert intervals.spread(costs) == {0: 1.0, 1: 1.0}
    assert intervals.spread({"a": {0: 1.0}}) == {}


def test_intervals_are_values() -> None:
    assert Interval(0.5, 0.1, 3).text(2) == "0.50 ± 0.10"
