"""Rows that are chosen, repeated, sorted or joined."""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.grads.batch_axis.axes import BatchAxis, InDim, Mixed, RowOwners
from dplit.grads.batch_axis.propagate import (
    AXIS_RULES,
    AxisRule,
    Call,
    ResultAxes,
    axis_rule,
    by_adding_an_example,
    default_rule,
)

T = Tensor


def dim_argument(call: Call, position: int, default: int = 0) -> int | None:
    """Return the dimension along which an operation works, or None for several."""
    dim = call.argument(position, "dim", "axis", default=default)
    return dim % max(1, call.subject.dim()) if isinstance(dim, int) else None


def _rows(position: int, default: int = 0) -> AxisRule:
    """Return the rule of operations that choose, repeat or reorder along a dimension: along 0, they do it to the owners too."""

    def choose(call: Call) -> ResultAxes:
        if dim_argument(call, position, default) != 0 or isinstance(call.axes.of(call.subject), InDim):
            return default_rule(call)
        owners = call.axes.owners(call.subject)
        if owners is None:
            return Mixed("rows were chosen where rows are not one example's")
        chosen = call.applied_to(owners)
        if isinstance(chosen, Tensor):
            return row_axis(call, chosen)
        return [row_axis(call, part) for part in chosen]

    return choose


def row_axis(call: Call, owner: Tensor) -> BatchAxis | None:
    """Return the axis of rows that belong to these examples."""
    if owner.dim() != 1:
        return Mixed("one row was chosen, which is one example's")
    return RowOwners(owner, call.axes.examples)


def row_axis_if_uniform(call: Call, owner: Tensor) -> BatchAxis | None:
    """Return the axis of a result from the example that each of its numbers belongs to; each row must be one example's."""
    if not owner.dim():
        return Mixed("one number was chosen, which is one example's")
    first = owner.reshape(len(owner), -1)[:, :1]
    if bool((owner.reshape(len(owner), -1) == first).all()):
        return RowOwners(first[:, 0].contiguous(), call.axes.examples)
    return Mixed("numbers of several examples share a row")


for _operations, _position in (
    ((torch.index_select, T.index_select), 1),
    ((torch.narrow, T.narrow), 1),
    ((torch.select, T.select), 1),
    ((torch.split, T.split, torch.chunk, T.chunk, torch.tensor_split, T.tensor_split), 2),
    ((torch.unbind, T.unbind), 1),
    ((torch.repeat_interleave, T.repeat_interleave), 2),
):
    AXIS_RULES.update(dict.fromkeys(_operations, _rows(_position)))


@axis_rule(torch.flip, T.flip, torch.roll, T.roll, torch.flipud, T.flipud)
def shifted(call: Call) -> ResultAxes:
    """Flipped or rolled, perhaps along the examples."""
    if isinstance(call.axes.of(call.subject), InDim):
        return default_rule(call)
    owners = call.axes.owners(call.subject)
    if owners is None:
        return Mixed("rows of several examples were shifted")
    owner_of_number = owners.view(-1, *[1] * (call.subject.dim() - 1)).expand_as(call.subject)
    return row_axis_if_uniform(call, call.applied_to(owner_of_number))


@axis_rule(torch.sort, T.sort, torch.topk, T.topk)
def sorted_(call: Call) -> ResultAxes:
    """Sorted by value: along dimension 0, only the rows of a vector can be followed."""
    position, default = (2, -1) if call.operation in (torch.topk, T.topk) else (1, -1)
    if dim_argument(call, position, default) != 0:
        return default_rule(call)
    owners = call.axes.owners(call.subject)
    if owners is None or call.subject.dim() != 1:
        return Mixed("sorted along the examples")
    return [RowOwners(owners[call.result[1]], call.axes.examples)] * 2


@axis_rule(torch.argsort, T.argsort)
def argsorted(call: Call) -> ResultAxes:
    """Positions in the order of their values."""
    if dim_argument(call, 1, -1) != 0:
        return default_rule(call)
    owners = call.axes.owners(call.subject)
    if owners is None or call.subject.dim() != 1:
        return Mixed("sorted along the examples")
    return row_axis(call, owners[call.result])


@axis_rule(T.repeat, torch.tile, T.tile)
def repeated(call: Call) -> ResultAxes:
    """Whole copies one after the other."""
    owners = call.axes.owners(call.subject)
    if call.result.dim() == call.subject.dim() and owners is not None:
        if len(call.result) == len(owners):
            return default_rule(call)
        return RowOwners(owners.repeat(len(call.result) // len(owners)), call.axes.examples)
    return by_adding_an_example(call)


@axis_rule(torch.cat, torch.concat, torch.concatenate)
def joined(call: Call) -> ResultAxes:
    """Parts one after the other: along dimension 0, rows keep their owners."""
    parts = call.argument(0, "tensors")
    if dim_argument(call, 1) != 0 or any(isinstance(call.axes.of(v), InDim) for v in parts):
        return default_rule(call)
    owners = [call.axes.owners(v) for v in parts if v.numel()]
    known = [owner for owner in owners if owner is not None]
    if len(known) < len(owners) or any(call.constant(v) for v in parts):
        return Mixed("rows were joined to others that are no example's")
    return RowOwners(torch.cat(known), call.axes.examples)


@axis_rule(torch.stack, torch.vstack, torch.row_stack)
def stacked(call: Call) -> ResultAxes:
    """Side by side in a new dimension."""
    parts = call.argument(0, "tensors")
    if all(call.axes.of(v) is None and (not v.dim() or len(v) % call.axes.examples) for v in parts):
        return None
    positions = {call.axes.position(v) for v in parts}
    position = next(iter(positions)) if len(positions) == 1 else None
    if position is None or call.operation is not torch.stack:
        return Mixed("stacked parts keep their examples in different places")
    dim, before = position
    new_dim = call.argument(1, "dim", default=0) % (parts[0].dim() + 1)
    return InDim(dim + (new_dim <= dim), before, call.axes.examples)
