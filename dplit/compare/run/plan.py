"""Which runs a comparison is made of, and which grid point each variant goes on with."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

import dplit
from dplit.compare.config.recipe import Comparison
from dplit.compare.config.variant import Point, folder_name, label


class VariantAtEpsilon(NamedTuple):
    """One contender of a comparison: a grid point is chosen for it, and tables and figures show it as one entry."""

    variant: str
    """The variant's name."""
    epsilon: float | None
    """The target ε; None for the runs without privacy."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        variant: the variant's name.
        epsilon: the target; None for a run without privacy.
        point: the choice from the grid.
        seed: of weights and data order.
        config: the whole recipe, as `dplit fit` reads it.
    """

    variant: str
    epsilon: float | None
    point: Point
    seed: int
    config: Mapping[str, object]

    @property
    def contender(self) -> VariantAtEpsilon:
        """The variant and target that the run belongs to."""
        return VariantAtEpsilon(self.variant, self.epsilon)

    @cached_property
    def path(self) -> PurePosixPath:
        """The folder of the run below the output folder."""
        target = [] if self.epsilon is None else [f"eps-{exact(self.epsilon)}"]
        return PurePosixPath(folder_name(self.variant), *target, label(self.point), f"seed-{self.seed}")

    @cached_property
    def digest(self) -> str:
        """A hash of the configuration and of dplit's version: a finished run with another one is made anew."""
        text = json.dumps({"dplit": dplit.__version__, "config": self.config}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        return str(self.path)

    def __hash__(self) -> int:
        return hash(self.path)


def exact(number: float) -> str:
    """Write a number in as few digits as give the same number.

    Example:
        >>> exact(3.0), exact(1.0000001)
        ('3', '1.0000001')
    """
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def contenders(comparison: Comparison) -> dict[VariantAtEpsilon, tuple[Point, ...]]:
    """Return every variant at each of its targets, with the grid points that are tried for it."""
    return {
        VariantAtEpsilon(variant.name, epsilon): variant.points
        for variant in comparison.all_variants
        for epsilon in comparison.epsilons_of(variant)
    }


def search(comparison: Comparison) -> list[Run]:
    """Return the first phase: every grid point of every contender, with the first `search_seeds` seeds."""
    return [
        _run(comparison, contender, point, seed)
        for seed in comparison.seeds[: comparison.search_seeds]
        for contender, points in contenders(comparison).items()
        for point in points
    ]


def remaining_seeds(comparison: Comparison, chosen: Mapping[VariantAtEpsilon, Point]) -> list[Run]:
    """Return the second phase: the chosen points with the seeds that the search has not used."""
    return [
        _run(comparison, contender, chosen[contender], seed)
        for seed in comparison.seeds[comparison.search_seeds :]
        for contender in contenders(comparison)
        if contender in chosen
    ]


def _run(comparison: Comparison, contender: VariantAtEpsilon, point: Point, seed: int) -> Run:
    variant = next(variant for variant in comparison.all_variants if variant.name == contender.variant)
    config = comparison.config(variant, contender.epsilon, point, seed)
    return Run(contender.variant, contender.epsilon, point, seed, config)


def total(comparison: Comparison) -> int:
    """Return how many runs both phases have together, if none fails."""
    remaining = len(comparison.seeds) - comparison.search_seeds
    return sum(len(points) * comparison.search_seeds + remaining for points in contenders(comparison).values())


def choose(comparison: Comparison, score: Callable[[Run], float]) -> dict[VariantAtEpsilon, Point]:
    """Return the point with the best mean score over the search's seeds for each contender; the first of equals.

    Args:
        comparison: whose search has been run.
        score: larger is better; NaN for a run that failed, whose point is then not chosen.
    """
    scores: dict[VariantAtEpsilon, dict[Point, list[float]]] = {}
    for run in search(comparison):
        scores.setdefault(run.contender, {}).setdefault(run.point, []).append(score(run))
    chosen = {}
    for contender, by_point in scores.items():
        means = {point: sum(values) / len(values) for point, values in by_point.items()}
        known = {point: mean for point, mean in means.items() if not math.isnan(mean)}
        if known:
            chosen[contender] = max(known, key=lambda point: known[point])
    return chosen
