"""Checks of arguments that reach a privacy statement: each returns the value as what it is, or refuses it in one line.

Every check takes the argument's name for the message, refuses text, booleans, None and NaN, and accepts numpy's numbers.

>>> rate("rate", 0.01)
0.01
>>> rate("rate", 2)
Traceback (most recent call last):
    ...
dplit.errors.ConfigurationError: rate=2 must be in (0, 1]; use batch size / number of records
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from typing import SupportsFloat, SupportsIndex

from dplit.errors import ConfigurationError


def real(name: str, value: object) -> float:
    """Return `value` as a float, ±infinity included.

    Raises:
        ConfigurationError: `value` is no number.
    """
    number = math.nan
    if isinstance(value, SupportsFloat | SupportsIndex) and not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if math.isnan(number):
        raise ConfigurationError(f"{name}={value!r} must be a number")
    return number


def positive(name: str, value: object) -> float:
    """Return `value` as a float above 0, infinity included.

    Raises:
        ConfigurationError: `value` is no number above 0.
    """
    number = real(name, value)
    if number <= 0:
        raise ConfigurationError(f"{name}={value!r} must be above 0")
    return number


def positive_finite(name: str, value: object) -> float:
    """Return `value` as a finite float above 0.

    Raises:
        ConfigurationError: `value` is no finite number above 0.
    """
    number = real(name, value)
    if not 0 < number < math.inf:
        raise ConfigurationError(f"{name}={value!r} must be a finite number above 0")
    return number


def not_negative(name: str, value: object) -> float:
    """Return `value` as a finite float of at least 0.

    Raises:
        ConfigurationError: `value` is no finite number of at least 0.
    """
    number = real(name, value)
    if not 0 <= number < math.inf:
        raise ConfigurationError(f"{name}={value!r} must be a finite number of at least 0")
    return number


def fraction(name: str, value: object) -> float:
    """Return `value` as a float in the open interval (0, 1).

    Raises:
        ConfigurationError: `value` is no number strictly between 0 and 1.
    """
    number = real(name, value)
    if not 0 < number < 1:
        raise ConfigurationError(f"{name}={value!r} must lie between 0 and 1")
    return number


def between_0_and_1(name: str, value: object) -> float:
    """Return `value` as a float in the closed interval [0, 1].

    Raises:
        ConfigurationError: `value` is no number from 0 to 1.
    """
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ConfigurationError(f"{name}={value!r} must be between 0 and 1")
    return number


def rate(name: str, value: object) -> float:
    """Return `value` as a sampling rate in (0, 1].

    Raises:
        ConfigurationError: `value` is no such number.
    """
    number = real(name, value)
    if not 0 < number <= 1:
        raise ConfigurationError(f"{name}={value!r} must be in (0, 1]; use batch size / number of records")
    return number


def delta(value: object) -> float:
    """Return `value` as a δ in (0, 1).

    Raises:
        ConfigurationError: `value` is no such number.
    """
    number = real("delta", value)
    if not 0 < number < 1:
        raise ConfigurationError(f"delta={value!r} must be between 0 and 1; use less than 1 / number of records")
    return number


def count(name: str, value: object, *, least: int = 1) -> int:
    """Return `value` as an int of at least `least`; floats are refused, whole ones too.

    Raises:
        ConfigurationError: `value` is no whole number of at least `least`.
    """
    number = least - 1
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with suppress(TypeError):
            number = operator.index(value)
    if number < least:
        raise ConfigurationError(f"{name}={value!r} must be a whole number of at least {least}")
    return number


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """Return `value` if it is one of the `known` names.

    Raises:
        ConfigurationError: it is not; the message gives the nearest known name, or all of them.
    """
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    near = get_close_matches(str(value), names, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
    raise ConfigurationError(f"{name}={value!r} is not known; {advice}")
