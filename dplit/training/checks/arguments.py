"""Arguments of a private strategy that are out of range, refused before anything is set up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from lightning_utilities.core.rank_zero import rank_zero_warn

from dplit.errors import ConfigurationError
from dplit.grads.backends import BACKENDS
from dplit.privacy import Target


def check_arguments(noise: object, loss_reduction: object, delta: float | None, grads: object) -> None:
    """Refuse arguments of a private strategy that cannot mean what they say.

    Raises:
        ConfigurationError: naming the argument and its range.
    """
    number = isinstance(noise, int | float) and not isinstance(noise, bool) and 0 < noise < math.inf
    if not isinstance(noise, Target) and not number:
        raise ConfigurationError(f"noise={noise!r} must be a Target(epsilon, delta) or a noise multiplier above 0")
    if loss_reduction not in (None, "mean", "sum"):
        raise ConfigurationError(f"loss_reduction={loss_reduction!r} must be None, 'mean' or 'sum'")
    if grads not in ("auto", *BACKENDS):
        names = [repr(name) for name in ("auto", *BACKENDS)]
        raise ConfigurationError(f"grads={grads!r} must be {', '.join(names[:-1])} or {names[-1]}")
    if delta is not None and not 0 < delta < 1:
        raise ConfigurationError(f"delta={delta!r} must lie between 0 and 1")


def check_memory(physical_batch_size: object, memory_limit: object) -> None:
    """Refuse a physical batch size or memory limit out of range.

    Raises:
        ConfigurationError: naming the argument and its range.
    """
    size = physical_batch_size
    if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigurationError(
            f"physical_batch_size={physical_batch_size!r} must be a whole number of at least 1, or 'auto'"
        )
    if memory_limit is None:
        return
    if physical_batch_size != "auto":
        raise ConfigurationError(
            f"memory_limit={memory_limit!r} has no meaning beside physical_batch_size={physical_batch_size}; set 'auto'"
        )
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | float) or not 0 < memory_limit < math.inf:
        raise ConfigurationError(f"memory_limit={memory_limit!r} must be a number of GiB above 0")


def check_figures(steered_by: object, public_splits: object) -> None:
    """Refuse names of figures that are no list, and splits that cannot be public.

    Raises:
        ConfigurationError: naming the argument and what it takes.
    """
    for name, given in (("steered_by", steered_by), ("public_splits", public_splits)):
        if not isinstance(given, list | tuple) or not all(isinstance(item, str) for item in given):
            raise ConfigurationError(f"{name}={given!r} must be a list of names, such as ['validation']")
    unknown = [split for split in cast(Sequence[str], public_splits) if split not in ("validation", "test")]
    if unknown:
        raise ConfigurationError(
            f"public_splits={public_splits!r} may hold 'validation' and 'test'; records to train on are never public here"
        )


def warn_of_delta(delta: float, records: int) -> None:
    """Warn of a δ that lets a record be released outright."""
    if delta >= 1 / records:
        rank_zero_warn(
            f"delta={delta:g} is not below 1/{records}, one over the number of records: releasing a record outright "
            "would meet it; choose a smaller delta"
        )


def checked_names(argument: str, names: object) -> tuple[str, ...]:
    """Return names that were given as a list.

    Raises:
        ConfigurationError: they are no list of names.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{argument}={names!r} must be a list of names")
    return tuple(names)
