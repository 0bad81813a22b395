"""What is counted of a split, batch by batch and rank by rank: only sums over examples, so that counts add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dplit.errors import ConfigurationError
from dplit.groups import declared
from dplit.predictions import NO_CLASS

MAX_CELLS = 2**24
"""Largest table K·C·C that is counted (128 MiB of int64)."""


@dataclass(frozen=True)
class Counts:
    """How many examples of each group had which label and which prediction, and their losses.

    Examples either all have a label and a prediction, or all have a loss alone; and all have a number of tokens, or
    none has. Adding or removing one example with a label moves one number of `cells` and `unpredicted` by one: together they
    have L1, L2 and L∞ sensitivity 1.

    Attributes:
        groups: the declared list, K names.
        cells: `(K, C, C)` int64 on the CPU, group × label × prediction; float64 once noise was added.
        unpredicted: `(K, C)` likewise, group × label of the examples for which the model predicts nothing.
        alone: `(K,)` int64, examples that came with a loss and nothing to label, as those of a language model.
        loss_sum: `(K,)` float64, the summed losses.
        loss_count: `(K,)` int64, how many examples came with a loss.
        token_loss: `(K,)` float64, the sum of loss times tokens.
        tokens: `(K,)` int64, the summed tokens.
        token_count: `(K,)` int64, how many examples came with a number of tokens.
        noise_std: standard deviation of the noise in each cell; 0 for exact counts.

    Raises:
        ConfigurationError: some examples have labels or tokens, and others do not.

    """

    groups: tuple[str, ...]
    cells: Tensor
    unpredicted: Tensor
    alone: Tensor
    loss_sum: Tensor
    loss_count: Tensor
    token_loss: Tensor
    tokens: Tensor
    token_count: Tensor
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        """Refuse figures of some examples that would be read as figures of all."""
        examples = self.cells.sum() + self.unpredicted.sum() + self.alone.sum()
        if self.has_tokens and int(self.token_count.sum()) < int(examples):
            raise ConfigurationError(_MIXED.format('"tokens"', 'no "tokens"'))
        if not self.has_labels and bool(self.cells.any() or self.unpredicted.any()):
            raise ConfigurationError(_MIXED.format("labels and predictions", "a loss alone"))

    @classmethod
    def none(cls, groups: Sequence[str], classes: int = 2) -> Counts:
        """Return the counts of no examples."""
        names, size = declared(groups), len(groups)
        _check_size(size, classes)
        cells = torch.zeros(size, classes, classes, dtype=torch.int64)
        whole, real = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.float64)
        none: dict[str, Any] = {
            "loss_sum": real,
            "loss_count": whole,
            "token_loss": real,
            "tokens": whole,
            "token_count": whole,
        }
        return cls(names, cells, unpredicted=cells[:, :, 0].clone(), alone=whole, **none)

    @property
    def classes(self) -> int:
        """C."""
        return self.cells.shape[-1]

    @property
    def has_labels(self) -> bool:
        """Whether examples have labels and predictions; so it is taken to be where there are no examples."""
        return not bool(self.alone.any())

    @property
    def has_tokens(self) -> bool:
        """Whether examples have numbers of tokens."""
        return bool(self.token_count.any())

    def widened(self, classes: int) -> Counts:
        """Return the same counts over at least `classes` classes."""
        more = max(classes - self.classes, 0)
        _check_size(len(self.groups), self.classes + more)
        return replace(self, cells=pad(self.cells, (0, more, 0, more)), unpredicted=pad(self.unpredicted, (0, more)))

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of both sets of examples, over the larger number of classes."""
        left, right = self.widened(other.classes), other.widened(self.classes)
        sums: dict[str, Any] = {name: getattr(left, name) + getattr(right, name) for name in SUMS}
        return replace(left, noise_std=math.hypot(left.noise_std, right.noise_std), **sums)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Counts:
        """Return counts in which `change`, such as a sum over ranks, is applied to each of the sums."""
        sums: dict[str, Any] = {name: change(getattr(self, name)) for name in SUMS}
        return replace(self, **sums)

    def merged(self) -> Counts:
        """Return the counts of all examples as those of one group, "all"."""
        whole = replace(self, groups=("all",), noise_std=self.noise_std * math.sqrt(len(self.groups)))
        return whole.mapped(lambda sums: sums.sum(0, keepdim=True))

    @property
    def table(self) -> Tensor:
        """`(K, C, C + 1)`: group × label × prediction, the last of which is none at all."""
        return torch.cat([self.cells, self.unpredicted[..., None]], -1)

    def with_noisy_cells(self, cells: Tensor, noise_std: float, unpredicted: Tensor | None = None) -> Counts:
        """Return counts that tell no more than answers with noise of `noise_std` a number: no losses, no tokens.

        Args:
            cells: `(K, C, C)`.
            noise_std: standard deviation, in examples.
            unpredicted: `(K, C)`; None where examples without a prediction were not asked for.

        """
        empty = replace(Counts.none(self.groups, self.classes), noise_std=noise_std)
        missing = empty.unpredicted if unpredicted is None else unpredicted
        return replace(empty, cells=_noisy(cells), unpredicted=_noisy(missing))


SUMS = tuple(field.name for field in fields(Counts) if field.name not in ("groups", "noise_std"))
"""Fields of `Counts` that add up over examples, tensors with a row for each group."""

_MIXED = (
    "some batches returned {} and some {}, so their figures would be of a part; return the same keys for every batch"
)


def count(
    groups: Sequence[str],
    classes: int,
    group: Tensor,
    label: Tensor | None,
    pred: Tensor | None,
    loss: Tensor | None = None,
    tokens: Tensor | None = None,
) -> Counts:
    """Count a batch with one `torch.bincount` over the *declared* groups, so that an absent group keeps its zeros.

    Args:
        groups: the declared list; id k means `groups[k]`.
        classes: C, at least 2.
        group: `(n,)` integer ids in [0, K).
        label: `(n,)` integer ids in [0, C); None for a loss alone.
        pred: `(n,)` integer ids in [0, C), or `NO_CLASS`; None for a loss alone.
        loss: `(n,)` losses per example, or None.
        tokens: `(n,)` how many tokens each loss is a mean over, or None.

    Raises:
        ConfigurationError: shapes differ, an id lies outside its range, or K·C·C is beyond `MAX_CELLS`.

    >>> group, label, pred = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 1, 1]])
    >>> count(["a", "b"], 2, group, label, pred).cells.tolist()
    [[[0, 1], [0, 1]], [[0, 0], [0, 1]]]
    """
    empty = Counts.none(groups, classes)
    group = group.detach().cpu().to(torch.int64)
    _check_ids("group", group, len(group), len(groups))
    sizes = torch.bincount(group, minlength=len(groups))
    if label is None or pred is None:
        counted = replace(empty, alone=sizes)
    else:
        table = _table(group, label, pred, len(groups), classes)
        counted = replace(empty, cells=table[..., :-1], unpredicted=table[..., -1])
    counted = counted if loss is None else _with_loss(counted, group, loss, sizes)
    return counted if loss is None or tokens is None else _with_tokens(counted, group, loss, tokens, sizes)


def _noisy(answer: Tensor) -> Tensor:
    return answer.detach().to("cpu", torch.float64)


def _table(group: Tensor, label: Tensor, pred: Tensor, groups: int, classes: int) -> Tensor:
    """Return `(K, C, C + 1)` counts; the last column is of examples without a prediction."""
    label, pred = (ids.detach().cpu().to(torch.int64) for ids in (label, pred))
    _check_ids("target", label, len(group), classes)
    _check_ids("prediction", pred.masked_fill(pred == NO_CLASS, 0), len(group), classes)
    column = pred.masked_fill(pred == NO_CLASS, classes)
    cells = torch.bincount(_cell_index(group, label, column, classes), minlength=groups * classes * (classes + 1))
    return cells.view(groups, classes, classes + 1)


def _cell_index(group: Tensor, label: Tensor, column: Tensor, classes: int) -> Tensor:
    return (group * classes + label) * (classes + 1) + column


def _with_loss(counts: Counts, group: Tensor, loss: Tensor, sizes: Tensor) -> Counts:
    if loss.shape != group.shape:
        raise ConfigurationError(
            f"loss has shape {tuple(loss.shape)} for {len(group)} examples; give one loss per example, "
            'as reduction="none" does, or leave it out'
        )
    return replace(counts, loss_sum=_summed(loss, group, counts.loss_sum), loss_count=sizes)


def _with_tokens(counts: Counts, group: Tensor, loss: Tensor, tokens: Tensor, sizes: Tensor) -> Counts:
    if tokens.shape != group.shape:
        raise ConfigurationError(
            f"tokens has shape {tuple(tokens.shape)} for {len(group)} examples; give each text's number of predicted "
            "tokens, or leave it out"
        )
    token_loss = _summed(loss.detach().to(torch.float64) * tokens.detach(), group, counts.token_loss)
    return replace(counts, token_loss=token_loss, tokens=_summed(tokens, group, counts.tokens), token_count=sizes)


def _summed(values: Tensor, group: Tensor, start: Tensor) -> Tensor:
    """Add the values of each group to `start`, in its dtype."""
    return start.index_add(0, group, values.detach().cpu().to(start.dtype))


def _check_ids(what: str, ids: Tensor, n: int, size: int) -> None:
    if ids.shape != (n,):
        raise ConfigurationError(f"{what} ids have shape {tuple(ids.shape)}, the batch has {n} examples; give ({n},)")
    if n and not (int(ids.min()) >= 0 and int(ids.max()) < size):
        outside = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise ConfigurationError(f"{what} id {outside} lies outside 0..{size - 1}; filter it out or declare more ids")


def _check_size(groups: int, classes: int) -> None:
    if classes < 2 or groups < 1 or groups * classes * classes > MAX_CELLS:
        raise ConfigurationError(
            f"{groups} groups x {classes} classes x {classes} classes is not a table of 1 to {MAX_CELLS} counts over "
            "two or more classes; count coarser classes"
        )
