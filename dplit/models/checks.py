"""Checks of arguments that several models share. Each refusal names the argument and what to give instead."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from dplit.errors import ConfigurationError


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        ConfigurationError: naming the argument and the choices.

    >>> check_choice("pooling", "sum", ["average", "max", "none"])
    Traceback (most recent call last):
    dplit.errors.ConfigurationError: pooling='sum' is not known here; choose average, max or none
    """
    *others, last = choices
    if value not in (*others, last):
        listed = f"{', '.join(others)} or {last}" if others else last
        raise ConfigurationError(f"{name}={value!r} is not known here; choose {listed}")


def check_positive(name: str, value: float, consequence: str) -> None:
    """Refuse a number that is not above 0 and finite.

    Args:
        name: of the argument.
        value: given for it.
        consequence: what the value would do, for the message: "would not move the weights".

    Raises:
        ConfigurationError: naming the argument.

    """
    if not 0 < value < inf:
        raise ConfigurationError(f"{name}={value} {consequence}; give a finite number above 0")


def check_below_one(name: str, value: float, consequence: str) -> None:
    """Refuse a number outside [0, 1); the arguments are those of `check_positive`.

    Raises:
        ConfigurationError: naming the argument.

    """
    if not 0 <= value < 1:
        raise ConfigurationError(f"{name}={value} {consequence}; give a number in [0, 1)")


def check_size(name: str, size: int | None, least: int) -> None:
    """Refuse a size under `least`; None, which leaves the size to the data module, passes.

    Raises:
        ConfigurationError: naming the argument.

    """
    if size is not None and size < least:
        raise ConfigurationError(f"{name}={size} leaves nothing to learn; give at least {least}")
