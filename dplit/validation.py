"""Numbers that reach a privacy statement: accepted as what they are, or refused in one line."""

from __future__ import annotations

import math
import operator
from typing import Any

from dplit.errors import ConfigurationError


def real(name: str, value: Any) -> float:
    """Return `value` as a float; null, text, booleans and NaN are refused with ConfigurationError."""
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ConfigurationError(f"{name}={value!r} must be a number")
    return number


def positive(name: str, value: Any) -> float:
    """Return `value` as a float above 0, infinity included."""
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


def fraction(name: str, value: object) -> float:
    """Return `value` as a float in the open interval (0, 1).

    Raises:
        ConfigurationError: `value` is no number strictly between 0 and 1.
    """
    number = real(name, value)
    if not 0 < number < 1:
        raise ConfigurationError(f"{name}={value!r} must lie between 0 and 1")
    return number


def rate(name: str, value: Any) -> float:
    """Return `value` as a sampling rate in (0, 1]."""
    number = real(name, value)
    if not 0 < number <= 1:
        raise ConfigurationError(f"{name}={value!r} must be in (0, 1]; use batch size / number of records")
    return number


def delta(value: Any) -> float:
    """Return `value` as a δ in (0, 1)."""
    number = real("delta", value)
    if not 0 < number < 1:
        raise ConfigurationError(f"delta={value!r} must be between 0 and 1; use less than 1 / number of records")
    return number


def count(name: str, value: Any, *, least: int = 1) -> int:
    """Return `value` as an int of at least `least`; numpy integers are accepted, floats and booleans are not."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ConfigurationError(f"{name}={value!r} must be a whole number of at least {least}")
    return number
