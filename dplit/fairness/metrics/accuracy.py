"""Accuracy: the fraction of examples whose prediction is their label."""

from __future__ import annotations

from torch import Tensor

from dplit.fairness.metrics.aggregations import difference, overall, smallest
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.quality import quality_metrics
from dplit.fairness.metrics.rates import fraction, group_totals


def accuracies(counts: Counts) -> Tensor:
    """P(ŷ = y | g), `(K, 1)`."""
    correct = counts.cells.diagonal(dim1=1, dim2=2).sum(1)
    return fraction(correct, group_totals(counts), counts, counts.classes**2)[:, None]


def overall_accuracy(counts: Counts) -> float:
    """Return the accuracy over all examples; NaN of none.

    >>> from dplit.fairness import count
    >>> import torch
    >>> group, label, pred = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 1, 1]])
    >>> round(overall_accuracy(count(["a", "b"], 2, group, label, pred)), 3)
    0.667
    """
    return overall(accuracies, counts)[""]


def worst_group_accuracy(counts: Counts) -> float:
    """Return the smallest accuracy of a group; NaN where no group has one."""
    return next(iter(smallest(accuracies, counts).values()))


def worst_group(counts: Counts) -> str | None:
    """Return the name of the group with the smallest accuracy; None where no group has one."""
    return next(iter(smallest(accuracies, counts))) or None


def accuracy_gap(counts: Counts) -> float:
    """Return the largest minus the smallest accuracy of a group; NaN where fewer than two groups have one.

    >>> from dplit.fairness import count
    >>> import torch
    >>> group, label, pred = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 1, 1]])
    >>> accuracy_gap(count(["a", "b"], 2, group, label, pred))
    0.5
    """
    return difference(accuracies, counts)[""]


METRICS = quality_metrics("accuracy", accuracies, smallest, place=20)
