"""Poisson draws: which records are in each, and nothing of what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import (
    Sampler,
)

from dplit.errors import ConfigurationError

Strata = Sequence[tuple[NDArray[np.int64], float]]
"""A partition of the records: the indices of each part, and the rate at which they are drawn."""


class PoissonBatches(Sampler[list[int]]):
    """Draws in which each of `size` records is included independently with probability `rate`.

    A binomial size and then a uniform subset of that size, which is the same law.

    Args:
        size: N, the records in the data set.
        rate: q in (0, 1].
        draws: how many draws one pass gives.
        seed: None for the operating system's randomness, which the amplification by sampling relies on.
        strata: parts with rates of their own in place of `rate`, every record in one of them.
        lengths: of each record. A draw is given from the longest to the shortest, so that neighbours need little padding;
            which records are in it is as before.

    Raises:
        ConfigurationError: a rate outside (0, 1], or strata that are no partition of the records.
    """

    def __init__(
        self,
        size: int,
        rate: float,
        draws: int,
        seed: int | None = None,
        strata: Strata | None = None,
        lengths: NDArray[Any] | None = None,
    ) -> None:
        self.strata = [(np.arange(size), rate)] if strata is None else list(strata)
        for own in (rate, *(own for _, own in self.strata)):
            if not 0 < own <= 1:
                raise ConfigurationError(f"rate={own} must lie in (0, 1]")
        if not np.array_equal(np.sort(np.concatenate([part for part, _ in self.strata])), np.arange(size)):
            raise ConfigurationError(f"the strata must hold each of the {size} records once")
        self.size = size
        self.rate = rate
        self.draws = draws
        self.seed = seed
        self.lengths = lengths

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(self.seed)
        for _ in range(self.draws):
            drawn = [_subset(part, rate, generator) for part, rate in self.strata]
            indices = np.sort(np.concatenate(drawn))
            yield (indices if self.lengths is None else _longest_first(indices, self.lengths)).tolist()


def _longest_first(indices: NDArray[np.int64], lengths: NDArray[Any]) -> NDArray[np.int64]:
    return indices[np.argsort(-lengths[indices], kind="stable")]


def _subset(part: NDArray[np.int64], rate: float, generator: np.random.Generator) -> NDArray[np.int64]:
    drawn = generator.binomial(len(part), rate)
    return part[generator.choice(len(part), drawn, replace=False, shuffle=False)]
