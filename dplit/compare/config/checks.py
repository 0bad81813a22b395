"""Plain values of a comparison's recipe, checked."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from dplit.errors import ConfigurationError


def as_distinct_list(values: object, name: str) -> list[object]:
    """Return one value, or a list of values, as a list without repeats and with at least one value.

    Raises:
        ConfigurationError: an empty list, or a value that stands twice; `name` begins the message.

    Example:
        >>> as_distinct_list(3, "epsilon"), as_distinct_list([1, 3], "epsilon")
        ([3], [1, 3])
    """
    listed = list(values) if isinstance(values, list | tuple) else [values]
    if not listed:
        raise ConfigurationError(f"{name} is an empty list, so there is nothing to run; give at least one value")
    if any(value in listed[:k] for k, value in enumerate(listed)):
        raise ConfigurationError(f"{name}={listed} names a value twice; name each once")
    return listed


def seed(value: object) -> int:
    """Return a seed.

    Raises:
        ConfigurationError: not a whole number of 32 bits.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ConfigurationError(f"seeds has {value!r}; seeds are whole numbers from 0 to 4294967295")
    return value


def search_seeds(value: object, seeds: int) -> int:
    """Return how many of the seeds the search uses.

    Raises:
        ConfigurationError: not a whole number from 1 to `seeds`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= seeds:
        raise ConfigurationError(f"search_seeds={value!r} must be a whole number from 1 to the {seeds} seeds")
    return value


def metric(name: object) -> str:
    """Return the name of a summary figure of `fairness.csv`.

    Raises:
        ConfigurationError: `fairness.csv` holds no such figure.
    """
    from dplit.fairness.metrics.catalogue import SUMMARY

    if name not in SUMMARY:
        raise ConfigurationError(f"choose_by={name!r} is no figure of fairness.csv{nearest(str(name), SUMMARY)}")
    return str(name)


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return the end of a message: the nearest known name, or all of them.

    Example:
        >>> nearest("epsilons", ["epsilon", "seeds"])
        '; did you mean epsilon?'
    """
    names = list(known)
    near = get_close_matches(wrong, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
