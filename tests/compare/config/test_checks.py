"""Plain values: what is accepted is returned as it is, the rest is refused in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dplit.compare.config import checks
from dplit.errors import ConfigurationError
from dplit.fairness.metrics.catalogue import SUMMARY

NUMBERS = st.integers() | st.floats() | st.booleans() | st.text(max_size=3) | st.none()


@given(NUMBERS | st.sampled_from([0, 2**32 - 1, 2**32, -1]))
def test_a_seed_has_32_bits(value: object) -> None:
    if type(value) is int and 0 <= value < 2**32:
        assert checks.seed(value) == value
    else:
        with pytest.raises(ConfigurationError, match="seeds are whole numbers"):
            checks.seed(value)


@given(NUMBERS, st.integers(1, 5))
def test_the_search_uses_some_of_the_seeds(value: object, seeds: int) -> None:
    if type(value) is int and 1 <= value <= seeds:
        assert checks.search_seeds(value, seeds) == value
    else:
        with pytest.raises(ConfigurationError, match=f"from 1 to the {seeds} seeds"):
            checks.search_seeds(value, seeds)


@given(st.lists(st.integers(0, 3), max_size=4))
def test_a_list_has_no_repeats(values: list[int]) -> None:
    if values and len(set(values)) == len(values):
        assert checks.as_distinct_list(values, "x") == values
    else:
        with pytest.raises(ConfigurationError, match=r"^x"):
            checks.as_distinct_list(values, "x")


@pytest.mark.parametrize("name", SUMMARY)
def test_every_summary_figure_may_choose(name: str) -> None:
    assert checks.metric(name) == name


@pytest.mark.parametrize("check", [checks.seed, checks.metric])
def test_refusals_are_one_line(check: Callable[[object], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
        check("a\nb")
