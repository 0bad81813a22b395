"""Which runs a comparison is made of, and which grid point each variant goes on with."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import dplit
from dplit.compare.config.recipe import Comparison
from dplit.compare.config.variant import Point, Variant, folder_name, label

VariantAtEpsilon = tuple[str, float | None]
"""A variant's name and a target: what one grid point is chosen for."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        variant: its name.
        epsilon: the target; None for a run without privacy.
        point: the choice from the grid.
        seed: of weights and data order.
        config: the whole recipe, as `dplit.fit` reads it.
    """

    variant: str
    epsilon: float | None
    point: Point
    seed: int
    config: Mapping[str, Any]

    @property
    def cell(self) -> VariantAtEpsilon:
        """What it is a try for."""
        return self.variant, self.epsilon

    @cached_property
    def path(self) -> PurePosixPath:
        """Its folder below the output folder."""
        target = [] if self.epsilon is None else [f"eps-{exact(self.epsilon)}"]
        return PurePosixPath(folder_name(self.variant), *target, label(self.point), f"seed-{self.seed}")

    @cached_property
    def digest(self) -> str:
        """What tells that a finished run is still this one: its configuration and dplit's version."""
        text = json.dumps({"dplit": dplit.__version__, "config": self.config}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        return str(self.path)

    def __hash__(self) -> int:
        return hash(self.path)


def exact(number: float) -> str:
    """Write a number as short as it goes without changing it."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def cells(comparison: Comparison) -> Iterator[tuple[Variant, float | None]]:
    """Yield every variant with each target it is run with."""
    for variant in comparison.all_variants:
        for epsilon in comparison.epsilons_of(variant):
            yield variant, epsilon


def search(comparison: Comparison) -> list[Run]:
    """Return the first phase: every grid point of every cell, with the first `search_seeds` seeds."""
    seeds = comparison.seeds[: comparison.search_seeds]
    return [
        Run(variant.name, epsilon, point, seed, comparison.config(variant, epsilon, point, seed))
        for seed in seeds
        for variant, epsilon in cells(comparison)
        for point in variant.points
    ]


def remaining_seeds(comparison: Comparison, chosen: Mapping[VariantAtEpsilon, Point]) -> list[Run]:
    """Return the second phase: the chosen points with the seeds that the search has not used."""
    return [
        Run(variant.name, epsilon, chosen[variant.name, epsilon], seed, config)
        for seed in comparison.seeds[comparison.search_seeds :]
        for variant, epsilon in cells(comparison)
        if (variant.name, epsilon) in chosen
        for config in [comparison.config(variant, epsilon, chosen[variant.name, epsilon], seed)]
    ]


def total(comparison: Comparison) -> int:
    """Return how many runs both phases have together, if none fails."""
    more = len(comparison.seeds) - comparison.search_seeds
    return sum(len(variant.points) * comparison.search_seeds + more for variant, _ in cells(comparison))


def choose(comparison: Comparison, score: Callable[[Run], float]) -> dict[VariantAtEpsilon, Point]:
    """Return the point each cell goes on with: the best mean score over the search's seeds, the first of equals.

    Args:
        comparison: whose search has been run.
        score: larger is better; NaN for a run that failed, whose point is then not chosen.
    """
    tried: dict[VariantAtEpsilon, dict[Point, list[float]]] = {}
    for run in search(comparison):
        tried.setdefault(run.cell, {}).setdefault(run.point, []).append(score(run))
    found = {}
    for cell, points in tried.items():
        means = {point: sum(scores) / len(scores) for point, scores in points.items()}
        known = {point: mean for point, mean in means.items() if not math.isnan(mean)}
        if known:
            found[cell] = max(known, key=lambda point: known[point])
    return found
