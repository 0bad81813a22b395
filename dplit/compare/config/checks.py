"""Plain values of a comparison's recipe, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from dplit.errors import ConfigurationError


def distinct(values: Any, name: str) -> list[Any]:
    """Return one value or a list of them as a list, none of them twice and at least one.

    Raises:
        ConfigurationError: an empty list, or a value that stands twice.
    """
    listed = list(values) if isinstance(values, list | tuple) else [values]
    if not listed:
        raise ConfigurationError(f"{name} is an empty list, so there is nothing to run; give at least one value")
    if any(value in listed[:k] for k, value in enumerate(listed)):
        raise ConfigurationError(f"{name}={listed} names a value twice; name each once")
    return listed


def epsilon(value: Any) -> float:
    """Return a privacy target's ε; refuse what is no finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ConfigurationError(f"epsilon={value!r} is no privacy target; give finite numbers above 0")
    return float(value)


def delta(value: Any) -> float:
    """Return δ; refuse what does not lie between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigurationError(f"delta={value!r} must lie between 0 and 1; write it as 1.0e-5")
    return float(value)


def seed(value: Any) -> int:
    """Return a seed; refuse what is no whole number of 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ConfigurationError(f"seeds has {value!r}; seeds are whole numbers from 0 to 4294967295")
    return value


def search_seeds(value: Any, seeds: Sequence[int]) -> int:
    """Return how many seeds the search uses; refuse none, and more than there are."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= len(seeds):
        raise ConfigurationError(f"search_seeds={value!r} must be a whole number from 1 to the {len(seeds)} seeds")
    return value


def metric(name: Any) -> str:
    """Return the name of a summary figure; refuse what `fairness.csv` does not hold."""
    from dplit.fairness.metrics.catalogue import SUMMARY

    if name not in SUMMARY:
        raise ConfigurationError(f"choose_by={name!r} is no figure of fairness.csv{nearest(str(name), SUMMARY)}")
    return str(name)


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return the end of a message: the nearest known name, or all of them."""
    names = list(known)
    near = get_close_matches(wrong, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
