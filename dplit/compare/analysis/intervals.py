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

    `half` is NaN for fewer than two values: one run says nothing of how far runs lie apart.
    """

    mean: float
    half: float
    n: int

    @property
    def drawn(self) -> Interval:
        """Itself, or an interval of no value where the mean is infinite and has no place on an axis."""
        return Interval(math.nan, math.nan, self.n) if math.isinf(self.mean) else self

    def text(self, digits: int = 3, scale: float = 1.0) -> str:
        """Write `mean ± half`, the mean alone where there is no interval, and a dash for no value."""
        if math.isnan(self.mean):
            return "–"
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if math.isnan(self.half) else f"{mean} ± {scale * self.half:.{digits}f}"


def interval(values: Iterable[float]) -> Interval:
    """Return the mean with Student's interval, t(0.975, n - 1)·s/√n; NaN values are left out.

    Where a value is infinite, as the loss of a run that diverged, the mean is too, and there is no interval.
    """
    known = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    n = len(known)
    if n < 2 or np.isinf(known).any():
        return Interval(sum(known.tolist()) / n if n else math.nan, math.nan, n)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / math.sqrt(n))
    return Interval(float(known.mean()), half, n)


def paired(reference: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """Return reference minus other for each seed that both have."""
    return {seed: reference[seed] - other[seed] for seed in reference if seed in other}


def spread(costs: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return, for each seed that every group has, the largest cost minus the smallest."""
    if len(costs) < 2:
        return {}
    seeds = set.intersection(*(set(by_seed) for by_seed in costs.values()))
    return {seed: max(c[seed] for c in costs.values()) - min(c[seed] for c in costs.values()) for seed in sorted(seeds)}
