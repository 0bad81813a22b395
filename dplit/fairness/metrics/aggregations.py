"""Aggregations: values by group, or one value of all groups together under the group "".

A rate that is not defined is NaN and is left out of every difference and minimum; a difference needs two groups. fairlearn
takes the true positive rate of a group without positives as 0, which makes a gap out of missing data. On the groups that
have the rate both agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Rates


def by_group(rates: Rates, counts: Counts) -> dict[str, float]:
    """Each group's rate, the mean over the columns that are defined."""
    return dict(zip(counts.groups, rates(counts).nanmean(1).tolist(), strict=True))


def by_group_if_binary(rates: Rates, counts: Counts) -> dict[str, float]:
    """Each group's rate where there are two classes, NaN where there are more."""
    column = rates(counts)[:, 0] if counts.classes == 2 else torch.full((len(counts.groups),), torch.nan)
    return dict(zip(counts.groups, column.tolist(), strict=True))


def overall(rates: Rates, counts: Counts) -> dict[str, float]:
    """The rate of all examples, whatever their group."""
    return {"": by_group(rates, counts.merged())["all"]}


def difference(rates: Rates, counts: Counts) -> dict[str, float]:
    """Largest minus smallest rate over the groups that have it; the largest such difference over columns."""
    values = rates(counts)
    missing = values.isnan()
    span = values.masked_fill(missing, -math.inf).amax(0) - values.masked_fill(missing, math.inf).amin(0)
    comparable = span[(~missing).sum(0) >= 2]
    return {"": float(comparable.max()) if len(comparable) else math.nan}


def smallest(rates: Rates, counts: Counts) -> dict[str, float]:
    """The smallest rate, under the name of its group (the first declared, where several tie)."""
    return _extreme(rates, counts, min)


def largest(rates: Rates, counts: Counts) -> dict[str, float]:
    """The largest rate, under the name of its group (the first declared, where several tie)."""
    return _extreme(rates, counts, max)


def _extreme(rates: Rates, counts: Counts, extreme: Callable[[Iterable[float]], float]) -> dict[str, float]:
    defined = {group: rate for group, rate in by_group(rates, counts).items() if not math.isnan(rate)}
    if not defined:
        return {"": math.nan}
    value = extreme(defined.values())
    return {next(group for group, rate in defined.items() if rate == value): value}
