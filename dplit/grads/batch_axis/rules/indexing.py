"""Indexing, gathering and scattering."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dplit.grads.batch_axis.layout import InDim, Layout, Mixed, Rows, located
from dplit.grads.batch_axis.propagate import Call, Found, by_experiment, propagates, unchanged
from dplit.grads.batch_axis.rules.rows import along, owned, uniform

T = Tensor


@propagates(T.__getitem__)
def indexed(call: Call) -> Found:
    """Indices whose first entry leaves the first dimension whole leave the examples outermost."""
    layout, index = call.layouts.of(call.subject), call.args[1]
    index = index if isinstance(index, tuple) else (index,)
    first = index[0] if index else slice(None)
    whole = first is Ellipsis or first == slice(None) if not isinstance(first, Tensor) else False
    if layout is None and whole and not _scattered(index[1:]):
        return None
    if layout is None and first is None:
        return located(1, call.result.shape, call.layouts.examples)
    if isinstance(layout, InDim | Mixed):
        return unchanged(call)
    if whole and layout is None:
        return by_experiment(call)
    owners = call.layouts.owners(call.subject)
    if owners is None:
        return Mixed("chosen from rows that are not one example's")
    if len(index) == 1 and not (isinstance(first, Tensor) and first.dtype == torch.bool and first.dim() > 1):
        return owned(call, owners[first]) if not isinstance(first, list) else owned(call, owners[torch.tensor(first)])
    return uniform(call, owners.view(-1, *[1] * (call.subject.dim() - 1)).expand_as(call.subject)[index])


def _scattered(index: tuple[Any, ...]) -> bool:
    """Whether index tensors stand apart, which puts their dimensions first."""
    kinds = [isinstance(i, Tensor | list) for i in index]
    return any(kinds) and False in kinds[kinds.index(True) : len(kinds) - kinds[::-1].index(True)]


@propagates(torch.masked_select, T.masked_select, torch.take, T.take)
def selected(call: Call) -> Found:
    """A vector of chosen numbers."""
    if call.operation in (torch.take, T.take):
        return Mixed("numbers were taken from anywhere")
    owners = call.layouts.owners(call.subject)
    if owners is None:
        return Mixed("chosen from rows that are not one example's")
    mask = call.argument(1, "mask")
    return owned(
        call, owners.view(-1, *[1] * (call.subject.dim() - 1)).expand_as(call.subject)[mask.expand_as(call.subject)]
    )


@propagates(torch.gather, T.gather, torch.take_along_dim, T.take_along_dim)
def gathered(call: Call) -> Found:
    """Numbers chosen along a dimension, which may be that of the examples."""
    return Mixed("gathered along the examples") if along(call, 1) == 0 else unchanged(call)


@propagates(
    *(torch.index_add, T.index_add, T.index_add_, torch.index_copy, T.index_copy, T.index_copy_),
    *(torch.scatter, T.scatter, T.scatter_, torch.scatter_add, T.scatter_add, T.scatter_add_, T.scatter_reduce_),
)
def scattered(call: Call) -> Found:
    """Rows written to rows of a tensor: each row must stay one example's."""
    target, index = call.subject, call.argument(2, "index")
    if along(call, 1) != 0:
        return call.layouts.of(target)
    source = call.argument(3, "source", "src", "value")
    owners = call.layouts.owners(source) if isinstance(source, Tensor) else None
    if owners is None or index.dim() != 1:
        return Mixed("written along the examples")
    return _written(call, target, index, owners)


@propagates(T.__setitem__, T.index_put_, torch.index_put, T.index_put)
def placed(call: Call) -> Found:
    """Numbers written at an index: each row of the target must stay one example's."""
    target, index, value = call.subject, call.args[1], call.argument(2, "values")
    if not isinstance(value, Tensor) or not value.dim() or call.constant(value):
        return call.layouts.of(target)
    index = tuple(index) if isinstance(index, tuple | list) else (index,)
    owners, have = call.layouts.owners(value), call.layouts.of(target)
    if owners is None or isinstance(have, InDim | Mixed):
        return Mixed("written along the examples")
    now = _owners_yet(call, target).view(-1, *[1] * (target.dim() - 1)).expand_as(target).clone()
    now[index] = owners.view(-1, *[1] * (value.dim() - 1)).expand_as(value)
    rows = now.flatten(1) if now.dim() > 1 else now[:, None]
    whose = rows.amax(1)
    if bool(((rows != whose[:, None]) & (rows >= 0)).any()):
        return Mixed("numbers of several examples share a row")
    return _completed(whose, call.layouts.examples)


def _owners_yet(call: Call, target: Tensor) -> Tensor:
    """Return whose each row of a target is, -1 for rows of constants."""
    owners = None if call.constant(target) else call.layouts.owners(target)
    return torch.full((len(target),), -1, device=target.device) if owners is None else owners


def _written(call: Call, target: Tensor, index: Tensor, owners: Tensor) -> Layout | None:
    """Return the layout of a target whose rows `index` now hold rows of `owners`; of constant rows, nobody's yet."""
    layouts, rows = call.layouts, len(target)
    have = layouts.of(target)
    if isinstance(have, Rows):
        now = have.owner.clone()
    elif have is None and not call.constant(target) and rows % layouts.examples == 0:
        now = layouts.owners(target).clone()  # type: ignore[union-attr]
    elif have is None:
        now = index.new_full((rows,), -1)
    else:
        return Mixed("written into rows of several examples")
    if bool(((now[index] >= 0) & (now[index] != owners)).any()):
        return Mixed("rows of several examples were added up")
    now[index] = owners
    if bool((now[index] != owners).any()):
        return Mixed("rows of several examples were added up")
    return _completed(now, layouts.examples)


def _completed(owner: Tensor, n: int) -> Layout:
    """Rows that hold nothing go to whoever has them if the rest is in order; otherwise each must be somebody's."""
    if len(owner) % n == 0:
        regular = torch.arange(n, device=owner.device).repeat_interleave(len(owner) // n)
        if bool(((owner == regular) | (owner < 0)).all()):
            return Rows(regular, n)
    return Rows(owner, n) if bool((owner >= 0).all()) else Mixed("rows that nothing was written to")
