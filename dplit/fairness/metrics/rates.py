"""Rates of predictions: fractions of the counts group × label × prediction.

With two classes the only column is class 1, the positive one. With more, every class takes its turn as the positive one
(one-vs-rest). A rate whose denominator is empty is NaN; in noisy counts also one whose denominator is lost in the noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dplit.fairness.metrics.counts import Counts

LIMIT = 3.0
"""A sum of m noisy cells under this many of its standard deviations, noise_std·√m, is taken for empty."""


def fraction(part: Tensor, whole: Tensor, counts: Counts, cells: int) -> Tensor:
    """Return part/whole, float64, held within [0, 1]; NaN where the whole, or the group, is empty or lost in the noise.

    Args:
        part: `(K,)` or `(K, columns)`, sums of cells.
        whole: of the same shape.
        counts: of K groups.
        cells: m, how many noisy cells each number in `whole` is a sum of.

    """
    part, whole = part.to(torch.float64), whole.to(torch.float64)
    present = is_known(group_totals(counts), counts, counts.classes**2)
    known = is_known(whole, counts, cells) & present.view(-1, *[1] * (whole.dim() - 1))
    return torch.where(known, part.clamp_min(0) / whole, torch.nan).clamp_max(1.0)


def is_known(total: Tensor, counts: Counts, cells: int) -> Tensor:
    """Whether sums of `cells` noisy cells are above 0 and not lost in the noise, a bool of the shape of `total`.

    Sums are of cells that are not clamped: clamping would lift an empty group's total by 0.4·std a cell, far above the
    limit.
    """
    return (total > 0) & (total >= LIMIT * counts.noise_std * math.sqrt(cells))


def group_totals(counts: Counts) -> Tensor:
    """Return `(K,)` float64: how many examples with a label each group has."""
    return label_totals(counts).sum(1)


def label_totals(counts: Counts) -> Tensor:
    """Return `(K, C)` float64: how many examples of each label each group has, those without a prediction among them.

    A group's noisy counts of the latter are taken for 0 where they are lost in the noise, so that they add none to a model
    that predicts something.
    """
    missing = counts.unpredicted.to(torch.float64)
    known = is_known(missing.sum(1), counts, counts.classes)
    return counts.cells.sum(2).to(torch.float64) + missing.masked_fill(~known[:, None], 0.0)


def positive_columns(per_class: Tensor) -> Tensor:
    """Return the columns of classes that are taken as positive: `(K, 1)` of two classes, `(K, C)` of more."""
    return per_class[:, 1:] if per_class.shape[1] == 2 else per_class
