"""Rows chosen, repeated, sorted or joined."""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.grads.batch_axis.layout import InDim, Layout, Mixed, Rows
from dplit.grads.batch_axis.propagate import (
    PROPAGATION,
    Call,
    Found,
    Move,
    by_experiment,
    others,
    propagates,
    unchanged,
)

T = Tensor


def along(call: Call, position: int, default: int = 0) -> int | None:
    """Return the dimension an operation works along, or None for several."""
    dim = call.argument(position, "dim", "axis", default=default)
    return dim % max(1, call.subject.dim()) if isinstance(dim, int) else None


def _rows(position: int, default: int = 0) -> Move:
    """Choosing, repeating or reordering along dimension 0 does the same to the rows' owners."""

    def move(call: Call) -> Found:
        if along(call, position, default) != 0 or isinstance(call.layouts.of(call.subject), InDim):
            return unchanged(call)
        owners = call.layouts.owners(call.subject)
        if owners is None:
            return Mixed("rows were chosen where rows are not one example's")
        chosen = call.operation(owners, *call.args[1:], **others(call))
        if isinstance(chosen, Tensor):
            return owned(call, chosen)
        return [owned(call, part) for part in chosen]

    return move


def owned(call: Call, owner: Tensor) -> Layout | None:
    """Return the layout of rows of these owners."""
    if owner.dim() != 1:
        return Mixed("one row was chosen, which is one example's")
    return Rows(owner, call.layouts.examples)


def uniform(call: Call, owner: Tensor) -> Layout | None:
    """Return the layout of a result each of whose numbers is this example's."""
    if not owner.dim():
        return Mixed("one number was chosen, which is one example's")
    first = owner.reshape(len(owner), -1)[:, :1]
    if bool((owner.reshape(len(owner), -1) == first).all()):
        return Rows(first[:, 0].contiguous(), call.layouts.examples)
    return Mixed("numbers of several examples share a row")


for _operations, _position in (
    ((torch.index_select, T.index_select), 1),
    ((torch.narrow, T.narrow), 1),
    ((torch.select, T.select), 1),
    ((torch.split, T.split, torch.chunk, T.chunk, torch.tensor_split, T.tensor_split), 2),
    ((torch.unbind, T.unbind), 1),
    ((torch.repeat_interleave, T.repeat_interleave), 2),
):
    PROPAGATION.update(dict.fromkeys(_operations, _rows(_position)))


@propagates(torch.flip, T.flip, torch.roll, T.roll, torch.flipud, T.flipud)
def shifted(call: Call) -> Found:
    """Flipped or rolled, which may be along the examples."""
    if isinstance(call.layouts.of(call.subject), InDim):
        return unchanged(call)
    owners = call.layouts.owners(call.subject)
    if owners is None:
        return Mixed("rows of several examples were shifted")
    wide = owners.view(-1, *[1] * (call.subject.dim() - 1)).expand_as(call.subject)
    return uniform(call, call.operation(wide, *call.args[1:], **others(call)))


@propagates(torch.sort, T.sort, torch.topk, T.topk)
def sorted_(call: Call) -> Found:
    """Ordered by value: along dimension 0 only a vector's rows can be followed."""
    position, default = (2, -1) if call.operation in (torch.topk, T.topk) else (1, -1)
    if along(call, position, default) != 0:
        return unchanged(call)
    owners = call.layouts.owners(call.subject)
    if owners is None or call.subject.dim() != 1:
        return Mixed("sorted along the examples")
    return [Rows(owners[call.result[1]], call.layouts.examples)] * 2


@propagates(torch.argsort, T.argsort)
def argsorted(call: Call) -> Found:
    """Positions by value."""
    if along(call, 1, -1) != 0:
        return unchanged(call)
    owners = call.layouts.owners(call.subject)
    return (
        Mixed("sorted along the examples")
        if owners is None or call.subject.dim() != 1
        else owned(call, owners[call.result])
    )


@propagates(T.repeat, torch.tile, T.tile)
def repeated(call: Call) -> Found:
    """Whole copies, one after the other."""
    owners = call.layouts.owners(call.subject)
    if call.result.dim() == call.subject.dim() and owners is not None:
        if len(call.result) == len(owners):
            return unchanged(call)
        return Rows(owners.repeat(len(call.result) // len(owners)), call.layouts.examples)
    return by_experiment(call)


@propagates(torch.cat, torch.concat, torch.concatenate)
def joined(call: Call) -> Found:
    """Parts one after the other; along dimension 0 their rows keep their owners."""
    parts = call.argument(0, "tensors")
    if along(call, 1) != 0 or any(isinstance(call.layouts.of(v), InDim) for v in parts):
        return unchanged(call)
    owners = [call.layouts.owners(v) for v in parts if v.numel()]
    if any(v is None for v in owners) or any(call.constant(v) for v in parts):
        return Mixed("rows were joined to others that are no example's")
    return Rows(torch.cat(owners), call.layouts.examples)  # type: ignore[arg-type]


@propagates(torch.stack, torch.vstack, torch.row_stack)
def stacked(call: Call) -> Found:
    """Side by side in a new dimension."""
    parts = call.argument(0, "tensors")
    if all(call.layouts.of(v) is None and (not v.dim() or len(v) % call.layouts.examples) for v in parts):
        return None
    places = {call.layouts.place(v) for v in parts}
    if len(places) > 1 or None in places or call.operation is not torch.stack:
        return Mixed("stacked parts keep their examples in different places")
    ((dim, before),) = places  # type: ignore[misc]
    at = call.argument(1, "dim", default=0) % (parts[0].dim() + 1)
    return InDim(dim + (at <= dim), before, call.layouts.examples)
