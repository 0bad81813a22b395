"""Group fairness figures: post-processing of counts, group × label × prediction, and of sums of losses and tokens.

A figure is a row of `TABLE`: rates, one row per declared group and one column per class, and an aggregation of them.
With two classes the only column is class 1, the positive one. With more, every class takes its turn as the positive
one (one-vs-rest): a group's TPR or FPR is the mean over the classes for which it is defined, and a difference is the
largest over classes. One selection rate per group says nothing with more than two classes (its mean over classes is
1/C whatever the model does), so that row is NaN there, while `demographic_parity_difference` is not.

A rate whose denominator is empty is NaN and is left out of every difference, gap and minimum; a difference needs two
groups. fairlearn calls the TPR of a group without positives 0, which makes a gap out of missing data: on the groups
that have the rate both agree. Only torch is needed here.

What examples do not have is not told: no figure of predictions where steps returned a loss alone, no perplexity where
they returned no tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.losses import losses, perplexities

# ---- rates: (K, columns) float64, NaN where not defined ---------------------------------------------------------

Rates = Callable[[Counts], Tensor]


def sizes(counts: Counts) -> Tensor:
    """Examples per group, `(K, 1)`; of noisy counts NaN where lost in the noise."""
    total = _total(counts.cells) + counts.alone
    return torch.where(_known(total, counts, counts.classes**2) | (counts.noise_std == 0), total, torch.nan)[:, None]


def accuracies(counts: Counts) -> Tensor:
    """P(ŷ = y | g), `(K, 1)`."""
    right = counts.cells.diagonal(dim1=1, dim2=2).sum(1)
    return _rate(right, _total(counts.cells), counts, counts.classes**2)[:, None]


def selection_rates(counts: Counts) -> Tensor:
    """P(ŷ = c | g), `(K, columns)`."""
    chosen = counts.cells.sum(1)
    return _rate(_columns(chosen), _total(counts.cells)[:, None], counts, counts.classes**2)


def tprs(counts: Counts) -> Tensor:
    """P(ŷ = c | y = c, g), `(K, columns)`."""
    hits = counts.cells.diagonal(dim1=1, dim2=2)
    return _rate(_columns(hits), _columns(counts.cells.sum(2)), counts, counts.classes)


def fprs(counts: Counts) -> Tensor:
    """P(ŷ = c | y ≠ c, g), `(K, columns)`."""
    false = counts.cells.sum(1) - counts.cells.diagonal(dim1=1, dim2=2)
    others = _total(counts.cells)[:, None] - counts.cells.sum(2)
    return _rate(_columns(false), _columns(others), counts, counts.classes * (counts.classes - 1))


def odds(counts: Counts) -> Tensor:
    """TPRs and FPRs side by side, `(K, 2·columns)`."""
    return torch.cat([tprs(counts), fprs(counts)], 1)


def _total(cells: Tensor) -> Tensor:
    return cells.sum((1, 2)).to(torch.float64)


def _columns(per_class: Tensor) -> Tensor:
    return per_class[:, 1:] if per_class.shape[1] == 2 else per_class


def _rate(part: Tensor, whole: Tensor, counts: Counts, cells: int) -> Tensor:
    part, whole = part.to(torch.float64), whole.to(torch.float64)
    present = _known(_total(counts.cells), counts, counts.classes**2)
    known = _known(whole, counts, cells) & present.view(-1, *[1] * (whole.dim() - 1))
    return torch.where(known, part.clamp_min(0) / whole, torch.nan).clamp_max(1.0)


def _known(total: Tensor, counts: Counts, cells: int) -> Tensor:
    # Sums stay unclamped: clamped cells would lift an empty group's total by 0.4·std a cell, far above the limit.
    return (total > 0) & (total >= 3.0 * counts.noise_std * math.sqrt(cells))


# ---- aggregations: values by group, "" for all groups together --------------------------------------------------

Aggregation = Callable[[Rates, Counts], dict[str, float]]


def by_group(rates: Rates, counts: Counts) -> dict[str, float]:
    """Each group's rate, the mean over the columns that are defined."""
    return dict(zip(counts.groups, rates(counts).nanmean(1).tolist(), strict=True))


def by_group_if_binary(rates: Rates, counts: Counts) -> dict[str, float]:
    """Each group's rate where there is one column, NaN where there are more."""
    only = rates(counts) if counts.classes == 2 else torch.full((len(counts.groups), 1), torch.nan)
    return dict(zip(counts.groups, only[:, 0].tolist(), strict=True))


def overall(rates: Rates, counts: Counts) -> dict[str, float]:
    """The rate of all examples, whatever their group."""
    return {"": by_group(rates, counts.merged())["all"]}


def difference(rates: Rates, counts: Counts) -> dict[str, float]:
    """Largest minus smallest rate over the groups that have it; the largest such difference over columns."""
    found = rates(counts)
    missing = found.isnan()
    span = found.masked_fill(missing, -math.inf).amax(0) - found.masked_fill(missing, math.inf).amin(0)
    comparable = span[(~missing).sum(0) >= 2]
    return {"": float(comparable.max()) if len(comparable) else math.nan}


def worst(rates: Rates, counts: Counts) -> dict[str, float]:
    """The smallest rate, under the name of its group (the first declared, where several tie)."""
    return _first(rates, counts, min)


def largest(rates: Rates, counts: Counts) -> dict[str, float]:
    """The largest rate, which is the worst of losses, under the name of its group (the first declared of equals)."""
    return _first(rates, counts, max)


def _first(rates: Rates, counts: Counts, end: Callable[..., str]) -> dict[str, float]:
    present = {group: rate for group, rate in by_group(rates, counts).items() if not math.isnan(rate)}
    if not present:
        return {"": math.nan}
    name = end(present, key=lambda group: present[group])
    return {name: present[name]}


# ---- the figures ------------------------------------------------------------------------------------------------

TABLE: dict[str, tuple[Rates, Aggregation]] = {
    "n": (sizes, by_group),
    "selection_rate": (selection_rates, by_group_if_binary),
    "accuracy": (accuracies, by_group),
    "tpr": (tprs, by_group),
    "fpr": (fprs, by_group),
    "loss": (losses, by_group),
    "perplexity": (perplexities, by_group),
    "overall_accuracy": (accuracies, overall),
    "overall_loss": (losses, overall),
    "overall_perplexity": (perplexities, overall),
    "worst_group_accuracy": (accuracies, worst),
    "worst_group_loss": (losses, largest),
    "worst_group_perplexity": (perplexities, largest),
    "accuracy_gap": (accuracies, difference),
    "loss_gap": (losses, difference),
    "perplexity_gap": (perplexities, difference),
    "demographic_parity_difference": (selection_rates, difference),
    "equal_opportunity_difference": (tprs, difference),
    "equalized_odds_difference": (odds, difference),
}
"""Every figure: metric name -> rates and aggregation. A new metric is a new entry; tables, files and logs follow."""

PER_GROUP = tuple(name for name, (_, how) in TABLE.items() if how in (by_group, by_group_if_binary))
"""Metrics with one value per declared group."""

SUMMARY = tuple(name for name in TABLE if name not in PER_GROUP)
"""Metrics with one value."""

QUALITIES = ("accuracy", "perplexity", "loss")
"""What a model is judged by: the first of these that is told. Each has `overall_`, `worst_group_` and `_gap` beside it."""


class Row(NamedTuple):
    """One figure: `group` is empty where it speaks of all groups, and names the worst group for a minimum."""

    metric: str
    group: str
    value: float


def is_defined(rates: Rates, counts: Counts) -> bool:
    """Whether the examples have what `rates` are of: labels and predictions, tokens, or nothing but a size and a loss."""
    if rates is perplexities:
        return counts.has_tokens
    return counts.has_labels or rates in (sizes, losses)


def table(counts: Counts) -> list[Row]:
    """Compute every figure of `TABLE` that is told."""
    return [
        Row(metric, group, value)
        for metric, (rates, aggregate) in TABLE.items()
        if is_defined(rates, counts)
        for group, value in aggregate(rates, counts).items()
    ]


def _summary(metric: str) -> Callable[[Counts], float]:
    rates, aggregate = TABLE[metric]

    def figure(counts: Counts) -> float:
        return next(iter(aggregate(rates, counts).values()))

    figure.__name__ = figure.__qualname__ = metric
    figure.__doc__ = f"Compute `{metric}` of counts; see the module on what is left out and on more than two classes."
    return figure


overall_accuracy = _summary("overall_accuracy")
worst_group_accuracy = _summary("worst_group_accuracy")
accuracy_gap = _summary("accuracy_gap")
demographic_parity_difference = _summary("demographic_parity_difference")
equal_opportunity_difference = _summary("equal_opportunity_difference")
equalized_odds_difference = _summary("equalized_odds_difference")


def worst_group(counts: Counts) -> str | None:
    """Return the name of the group with the smallest accuracy; None where no group has one."""
    return next(iter(worst(accuracies, counts))) or None
