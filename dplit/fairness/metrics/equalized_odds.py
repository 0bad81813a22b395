"""True and false positive rates, and that they are equal between groups: equal opportunity and equalized odds.

With more than two classes a group's rate is the mean over the classes for which it is defined, and a difference is the
largest over classes. Source: Hardt, Price and Srebro 2016, arXiv:1610.02413.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.fairness.metrics.aggregations import by_group, difference
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Metric, Section
from dplit.fairness.metrics.rates import fraction, group_totals, label_totals, positive_columns


def true_positive_rates(counts: Counts) -> Tensor:
    """P(ŷ = c | y = c, g), `(K, columns)`."""
    hits = counts.cells.diagonal(dim1=1, dim2=2)
    positives = label_totals(counts)
    return fraction(positive_columns(hits), positive_columns(positives), counts, counts.classes)


def false_positive_rates(counts: Counts) -> Tensor:
    """P(ŷ = c | y ≠ c, g), `(K, columns)`."""
    false_alarms = counts.cells.sum(1) - counts.cells.diagonal(dim1=1, dim2=2)
    negatives = group_totals(counts)[:, None] - label_totals(counts)
    cells = counts.classes * (counts.classes - 1)
    return fraction(positive_columns(false_alarms), positive_columns(negatives), counts, cells)


def odds(counts: Counts) -> Tensor:
    """True and false positive rates side by side, `(K, 2·columns)`."""
    return torch.cat([true_positive_rates(counts), false_positive_rates(counts)], 1)


def equal_opportunity_difference(counts: Counts) -> float:
    """Return the largest difference of true positive rates between groups; NaN where fewer than two groups have one."""
    return difference(true_positive_rates, counts)[""]


def equalized_odds_difference(counts: Counts) -> float:
    """Return the largest difference of true, or of false, positive rates between groups, whichever is larger.

    NaN where fewer than two groups have either rate.
    """
    return difference(odds, counts)[""]


METRICS = (
    Metric("tpr", Section.BY_GROUP, true_positive_rates, by_group, place=30),
    Metric("fpr", Section.BY_GROUP, false_positive_rates, by_group, place=31),
    Metric("equal_opportunity_difference", Section.CRITERION, true_positive_rates, difference, place=30),
    Metric("equalized_odds_difference", Section.CRITERION, odds, difference, place=31),
)
