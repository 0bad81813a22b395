"""What reaches a privacy statement is a number of the stated range, or it is refused in one line that names it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dplit import validation
from dplit.errors import ConfigurationError

RANGES = {  # each check, and the law that says which numbers it takes
    "real": lambda x: True,
    "positive": lambda x: x > 0,
    "positive_finite": lambda x: 0 < x < math.inf,
    "not_negative": lambda x: 0 <= x < math.inf,
    "fraction": lambda x: 0 < x < 1,
    "between_0_and_1": lambda x: 0 <= x <= 1,
    "rate": lambda x: 0 < x <= 1,
}
EDGES = [0.0, -0.0, 1.0, 5e-324, -5e-324, 1 - 2**-53, 1 + 2**-52, math.inf, -math.inf, 0.5, -3.0, 7.0]


def taken(check: str, value: object) -> bool:
    try:
        number = getattr(validation, check)("argument", value)
    except ConfigurationError:
        return False
    assert type(number) is float
    assert number == value
    return True


@pytest.mark.parametrize("check", RANGES)
@given(st.floats(allow_nan=False) | st.sampled_from(EDGES) | st.integers(-3, 3))
def test_each_check_takes_its_range_and_nothing_else(check: str, value: float) -> None:
    assert taken(check, value) == RANGES[check](value)


@pytest.mark.parametrize("value", EDGES)
def test_a_delta_is_a_fraction(value: float) -> None:
    if 0 < value < 1:
        assert validation.delta(value) == value
    else:
        with pytest.raises(ConfigurationError, match=r"^delta=[^\n]*1 / number of records$"):
            validation.delta(value)


@pytest.mark.parametrize("check", RANGES)
@pytest.mark.parametrize(
    "value", [None, "0.5", b"0.5", True, False, math.nan, [0.5], {}, 1j, np.array([0.5, 0.5]), object]
)
def test_what_is_no_number_is_refused(check: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^argument=[^\n]*$"):
        getattr(validation, check)("argument", value)


@pytest.mark.parametrize("check", RANGES)
def test_numpy_numbers_are_numbers(check: str) -> None:
    assert taken(check, np.float32(0.5))
    assert taken(check, np.float64(0.25))


@given(st.integers(-5, 5), st.integers(-3, 3))
def test_a_count_is_at_least_its_least(value: int, least: int) -> None:
    if value >= least:
        assert validation.count("steps", np.int64(value), least=least) == value
        assert type(validation.count("steps", np.int64(value), least=least)) is int
    else:
        with pytest.raises(ConfigurationError, match=f"^steps=.* must be a whole number of at least {least}$"):
            validation.count("steps", value, least=least)


@pytest.mark.parametrize("value", [1.0, "1", None, True, math.nan, np.float64(2.0), [1]])
def test_what_is_no_whole_number_is_no_count(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^steps="):
        validation.count("steps", value, least=0)


def test_a_choice_is_one_of_the_known_names() -> None:
    known = ("prv", "rdp")
    assert validation.choice("accountant", "rdp", known) == "rdp"
    with pytest.raises(ConfigurationError, match=r"^accountant='rdpp' is not known; did you mean 'rdp'\?$"):
        validation.choice("accountant", "rdpp", known)
    with pytest.raises(ConfigurationError, match=r"^accountant=None is not known; use one of prv, rdp$"):
        validation.choice("accountant", None, known)
