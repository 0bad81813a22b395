"""Poisson draws: which records are in each, and nothing of what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import (
    Sampler,
)

from dplit import validation
from dplit.errors import ConfigurationError

Strata = Sequence[tuple[NDArray[np.int64], float]]
"""A partition of the records: the indices of each part, and the rate at which they are drawn."""


class PoissonBatches(Sampler[list[int]]):
    """Draws in which each of `size` records is included independently with probability `rate`.

    The size of a draw is binomial, and the draw is a uniform subset of that size: this is the same law.

    Args:
        size: N, the records in the data set.
        rate: q in (0, 1].
        draws: how many draws one pass gives.
        seed: None for the operating system's randomness, which the amplification by sampling relies on.
        strata: parts with rates of their own in place of `rate`, every record in one of them.
        lengths: `(N,)`, of each record. The indices of a draw are given from the longest to the shortest record, so that
            neighbours need little padding; the law of which records are in it stays the same.

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
        lengths: NDArray[np.float64] | None = None,
    ) -> None:
        self.size = size
        self.rate = validation.rate("rate", rate)
        self.draws = draws
        self.seed = seed
        self.strata = [(np.arange(size), self.rate)] if strata is None else list(strata)
        self.lengths = lengths
        for _, stratum_rate in self.strata:
            validation.rate("rate", stratum_rate)
        if not np.array_equal(np.sort(np.concatenate([part for part, _ in self.strata])), np.arange(size)):
            raise ConfigurationError(
                f"the strata hold {sum(len(part) for part, _ in self.strata)} indices; give each of the {size} records one"
            )

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(self.seed)
        for _ in range(self.draws):
            indices = self._draw(generator)
            yield (indices if self.lengths is None else _longest_first(indices, self.lengths)).tolist()

    def _draw(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return the sorted indices of one draw."""
        return np.sort(np.concatenate([_subset(part, rate, generator) for part, rate in self.strata]))


def _longest_first(indices: NDArray[np.int64], lengths: NDArray[np.float64]) -> NDArray[np.int64]:
    return indices[np.argsort(-lengths[indices], kind="stable")]


def _subset(part: NDArray[np.int64], rate: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return a subset of `part` that holds each of its indices independently with probability `rate`."""
    size = generator.binomial(len(part), rate)
    return part[generator.choice(len(part), size, replace=False, shuffle=False)]
