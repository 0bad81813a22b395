"""Means over seeds with 95 % intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values, and half the width of its 95 % interval.

    `half` is NaN for fewer than two values: one run does not show how far runs lie apart.

    Attributes:
        mean: NaN for no value.
        half: t(0.975, n - 1)·s/√n, with s the standard deviation of the values.
        n: the number of values that are not NaN.
    """

    mean: float
    half: float
    n: int

    @property
    def drawn(self) -> Interval:
        """The interval to draw: itself, or one of no value where the mean is infinite and has no place on an axis."""
        return Interval(math.nan, math.nan, self.n) if math.isinf(self.mean) else self

    def text(self, digits: int = 3, scale: float = 1.0) -> str:
        """Return `mean ± half`, the mean alone where there is no interval, and a dash for no value.

        Example:
            >>> Interval(0.5, 0.02, 3).text(2), Interval(0.5, 0.02, 3).text(0, scale=100)
            ('0.50 ± 0.02', '50 ± 2')
        """
        if math.isnan(self.mean):
            return "–"
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if math.isnan(self.half) else f"{mean} ± {scale * self.half:.{digits}f}"


def interval(values: Iterable[float]) -> Interval:
    """Return the mean with Student's interval, t(0.975, n - 1)·s/√n; NaN values are left out.

    If a value is infinite, as the loss of a run that diverged, the mean is infinite too and there is no interval.
    """
    known = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    n = len(known)
    if n < 2 or np.isinf(known).any():
        return Interval(sum(known.tolist()) / n if n else math.nan, math.nan, n)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / math.sqrt(n))
    return Interval(float(known.mean()), half, n)


def paired(reference: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """Return reference minus other for each seed that both have.

    Example:
        >>> paired({0: 1.0, 1: 3.0}, {1: 2.0})
        {1: 1.0}
    """
    return {seed: reference[seed] - other[seed] for seed in reference if seed in other}


def spread(costs: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return, for each seed that every group has, the largest cost minus the smallest."""
    if len(costs) < 2:
        return {}
    seeds = set.intersection(*(set(by_seed) for by_seed in costs.values()))
    return {
        seed: max(at_seed) - min(at_seed)
        for seed in sorted(seeds)
        for at_seed in [[cost[seed] for cost in costs.values()]]
    }
