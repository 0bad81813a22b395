"""Group fairness figures: post-processing of one table of counts, group × label × prediction.

A figure is a row of `TABLE`: rates, one row per declared group and one column per class, and an aggregation of them.
With two classes the only column is class 1, the positive one. With more, every class takes its turn as the positive
one (one-vs-rest): a group's TPR or FPR is the mean over the classes for which it is defined, and a difference is the
largest over classes. One selection rate per group says nothing with more than two classes (its mean over classes is
1/C whatever the model does), so that row is NaN there, while `demographic_parity_difference` is not.

A rate whose denominator is empty is NaN and is left out of every difference, gap and minimum; a difference needs two
groups. fairlearn calls the TPR of a group without positives 0, which makes a gap out of missing data: on the groups
that have the rate both agree. Only torch is needed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dplit.errors import ConfigurationError
from dplit.groups import declared

MOST_CELLS = 2**24
"""Largest table K·C·C that is counted (128 MiB of int64)."""


@dataclass(frozen=True)
class Counts:
    """How many examples of each group had which label and which prediction, and their losses.

    Adding or removing one example moves one cell by one: `cells` has L1, L2 and L∞ sensitivity 1.

    Attributes:
        groups: the declared list, K names.
        cells: `(K, C, C)` int64 on the CPU, group × label × prediction; float64 once noise was added.
        loss_sum: `(K,)` float64, the summed losses.
        loss_count: `(K,)` int64, how many examples came with a loss.
        noise_std: standard deviation of the noise in each cell; 0 for exact counts.

    """

    groups: tuple[str, ...]
    cells: Tensor
    loss_sum: Tensor
    loss_count: Tensor
    noise_std: float = 0.0

    @classmethod
    def none(cls, groups: Sequence[str], classes: int = 2) -> Counts:
        """Return the counts of no examples."""
        names, size = declared(groups), len(groups)
        _check_size(size, classes)
        cells = torch.zeros(size, classes, classes, dtype=torch.int64)
        return cls(names, cells, torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.int64))

    @property
    def classes(self) -> int:
        """C."""
        return self.cells.shape[-1]

    def widened(self, classes: int) -> Counts:
        """Return the same counts over at least `classes` classes."""
        more = max(classes - self.classes, 0)
        _check_size(len(self.groups), self.classes + more)
        return replace(self, cells=pad(self.cells, (0, more, 0, more)))

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of both sets of examples, over the larger number of classes."""
        left, right = self.widened(other.classes), other.widened(self.classes)
        return replace(
            left,
            cells=left.cells + right.cells,
            loss_sum=left.loss_sum + right.loss_sum,
            loss_count=left.loss_count + right.loss_count,
            noise_std=math.hypot(left.noise_std, right.noise_std),
        )

    def with_noisy_cells(self, cells: Tensor, noise_std: float) -> Counts:
        """Return counts that tell no more than `cells`, an answer with noise of `noise_std` a cell: no losses.

        Args:
            cells: `(K, C, C)`.
            noise_std: standard deviation, in examples.

        """
        empty = Counts.none(self.groups, self.classes)
        return replace(empty, cells=cells.detach().to("cpu", torch.float64), noise_std=noise_std)


def count(
    groups: Sequence[str],
    classes: int,
    group: Tensor,
    label: Tensor,
    pred: Tensor,
    loss: Tensor | None = None,
) -> Counts:
    """Count a batch with one `torch.bincount` over the *declared* groups, so that an absent one keeps its own zeros.

    Args:
        groups: the declared list; id k means `groups[k]`.
        classes: C, at least 2.
        group: `(n,)` integer ids in [0, K).
        label: `(n,)` integer ids in [0, C).
        pred: `(n,)` integer ids in [0, C).
        loss: `(n,)` losses per example, or None.

    Raises:
        ConfigurationError: shapes differ, an id lies outside its range, or K·C·C is beyond `MOST_CELLS`.

    """
    empty = Counts.none(groups, classes)
    group, label, pred = (ids.detach().cpu().to(torch.int64) for ids in (group, label, pred))
    _check_ids("group", group, len(group), len(groups))
    _check_ids("target", label, len(group), classes)
    _check_ids("prediction", pred, len(group), classes)
    cells = torch.bincount(_cell(group, label, pred, classes), minlength=empty.cells.numel())
    counted = replace(empty, cells=cells.view_as(empty.cells))
    return counted if loss is None else _with_loss(counted, group, loss)


def _cell(group: Tensor, label: Tensor, pred: Tensor, classes: int) -> Tensor:
    return (group * classes + label) * classes + pred


def _with_loss(counts: Counts, group: Tensor, loss: Tensor) -> Counts:
    if loss.shape != group.shape:
        raise ConfigurationError(
            f"loss has shape {tuple(loss.shape)} for {len(group)} examples; give one loss per example, "
            'as reduction="none" does, or leave it out'
        )
    sums = counts.loss_sum.index_add(0, group, loss.detach().cpu().to(torch.float64))
    return replace(counts, loss_sum=sums, loss_count=counts.cells.sum((1, 2)))


def _check_ids(what: str, ids: Tensor, n: int, size: int) -> None:
    if ids.shape != (n,):
        raise ConfigurationError(f"{what} ids have shape {tuple(ids.shape)}, the batch has {n} examples; give ({n},)")
    if n and not (int(ids.min()) >= 0 and int(ids.max()) < size):
        outside = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise ConfigurationError(f"{what} id {outside} lies outside 0..{size - 1}; filter it out or declare more ids")


def _check_size(groups: int, classes: int) -> None:
    if classes < 2 or groups < 1 or groups * classes * classes > MOST_CELLS:
        raise ConfigurationError(
            f"{groups} groups x {classes} classes x {classes} classes is not a table of 1 to {MOST_CELLS} counts over "
            "two or more classes; count coarser classes"
        )


# ---- rates: (K, columns) float64, NaN where not defined ---------------------------------------------------------

Rates = Callable[[Counts], Tensor]


def sizes(counts: Counts) -> Tensor:
    """Examples per group, `(K, 1)`; of noisy counts NaN where lost in the noise."""
    total = _total(counts.cells)
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


def losses(counts: Counts) -> Tensor:
    """Mean loss per group, `(K, 1)`."""
    return torch.where(counts.loss_count > 0, counts.loss_sum / counts.loss_count, torch.nan)[:, None]


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
    merged = Counts(
        ("all",),
        counts.cells.sum(0, keepdim=True),
        counts.loss_sum.sum(0, keepdim=True),
        counts.loss_count.sum(0, keepdim=True),
        counts.noise_std * math.sqrt(len(counts.groups)),
    )
    return {"": by_group(rates, merged)["all"]}


def difference(rates: Rates, counts: Counts) -> dict[str, float]:
    """Largest minus smallest rate over the groups that have it; the largest such difference over columns."""
    found = rates(counts)
    missing = found.isnan()
    span = found.masked_fill(missing, -math.inf).amax(0) - found.masked_fill(missing, math.inf).amin(0)
    comparable = span[(~missing).sum(0) >= 2]
    return {"": float(comparable.max()) if len(comparable) else math.nan}


def worst(rates: Rates, counts: Counts) -> dict[str, float]:
    """The smallest rate, under the name of its group (the first declared, where several tie)."""
    present = {group: rate for group, rate in by_group(rates, counts).items() if not math.isnan(rate)}
    if not present:
        return {"": math.nan}
    name = min(present, key=lambda group: present[group])
    return {name: present[name]}


# ---- the figures ------------------------------------------------------------------------------------------------

TABLE: dict[str, tuple[Rates, Aggregation]] = {
    "n": (sizes, by_group),
    "selection_rate": (selection_rates, by_group_if_binary),
    "accuracy": (accuracies, by_group),
    "tpr": (tprs, by_group),
    "fpr": (fprs, by_group),
    "loss": (losses, by_group),
    "overall_accuracy": (accuracies, overall),
    "overall_loss": (losses, overall),
    "worst_group_accuracy": (accuracies, worst),
    "accuracy_gap": (accuracies, difference),
    "demographic_parity_difference": (selection_rates, difference),
    "equal_opportunity_difference": (tprs, difference),
    "equalized_odds_difference": (odds, difference),
}
"""Every figure: metric name -> rates and aggregation. A new metric is a new entry; tables, files and logs follow."""

PER_GROUP = tuple(name for name, (_, how) in TABLE.items() if how in (by_group, by_group_if_binary))
"""Metrics with one value per declared group."""

SUMMARY = tuple(name for name in TABLE if name not in PER_GROUP)
"""Metrics with one value."""


class Row(NamedTuple):
    """One figure: `group` is empty where it speaks of all groups, and names the worst group for a minimum."""

    metric: str
    group: str
    value: float


def table(counts: Counts) -> list[Row]:
    """Compute every figure of `TABLE`."""
    return [
        Row(metric, group, value)
        for metric, (rates, aggregate) in TABLE.items()
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
