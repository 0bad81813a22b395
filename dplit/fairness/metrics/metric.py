"""What a metric is: rates of groups, an aggregation of them, and its place in the file.

A metric says how it is computed from `Counts` alone, so that noisy counts give every figure by post-processing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from torch import Tensor

from dplit.fairness.metrics.counts import Counts

Rates = Callable[[Counts], Tensor]
"""A figure of each group: counts -> `(K, columns)` float64, NaN where it is not defined."""

Aggregation = Callable[[Rates, Counts], dict[str, float]]
"""A summary of rates: `{group: value}`, with the group "" for a value of all groups together."""


class Row(NamedTuple):
    """One figure: `group` is "" where it is about all groups, and names the worst group where it is about that one."""

    metric: str
    group: str
    value: float


class Section(IntEnum):
    """Sections of the file, in their order."""

    BY_GROUP = 0
    """One value for each declared group."""
    OVERALL = 1
    """One value of all examples, whatever their group."""
    WORST_GROUP = 2
    """One value, under the name of its group."""
    GAP = 3
    """The largest minus the smallest value of the groups."""
    CRITERION = 4
    """How far a fairness criterion is missed."""


def has_labels(counts: Counts) -> bool:
    """Whether examples have labels and predictions."""
    return counts.has_labels


def has_tokens(counts: Counts) -> bool:
    """Whether examples have numbers of tokens."""
    return counts.has_tokens


def always(counts: Counts) -> bool:
    """True: every example has a group, and may have a loss."""
    return True


@dataclass(frozen=True)
class Metric:
    """One metric. A file of this package with a tuple `METRICS` adds these metrics to every table, file and log.

    Attributes:
        name: as in the file, distinct from all others.
        section: a section has its metrics in the order of `place`, then of file names, then as their file lists them.
        rates: the figure of each group.
        aggregate: by group for `Section.BY_GROUP`, else one value.
        needs: whether examples have what the rates are computed from. Without it the metric is left out, not NaN.
        place: see `section`.

    """

    name: str
    section: Section
    rates: Rates
    aggregate: Aggregation
    needs: Callable[[Counts], bool] = has_labels
    place: int = 1000

    def values(self, counts: Counts) -> dict[str, float]:
        """Return `{group: value}`, NaN where a value is not defined."""
        return self.aggregate(self.rates, counts)

    def value(self, counts: Counts) -> float:
        """Return the value of a metric that has one."""
        (value,) = self.values(counts).values()
        return value
