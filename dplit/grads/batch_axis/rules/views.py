"""Transposes, reshapes and expansions, which keep every number."""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.grads.batch_axis.axes import BatchAxis, InDim, Mixed, RowOwners, axis_at_depth
from dplit.grads.batch_axis.propagate import Call, ResultAxes, axis_rule, default_rule
from dplit.grads.torch_calls import property_getters
from dplit.grads.types import Args, Result

T = Tensor


def _first_is_kept(args: Args, result: Result, examples: int) -> bool:
    """Whether two dimensions were exchanged and neither is the first, or a new order was given that begins with the first."""
    size, dims = args[0].dim(), args[1:]
    if len(dims) == 2 and size > 2:
        return all(isinstance(d, int) and d % size != 0 for d in dims)
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return bool(len(order) == size > 2 and order[0] == 0)


def _first_divides(args: Args, result: Result, examples: int) -> bool:
    """Whether the first dimension still has the examples: flat order is kept, so it does if n divides it."""
    return isinstance(result, Tensor) and result.dim() > 0 and len(result) > 0 and len(result) % examples == 0


@axis_rule(
    *(torch.transpose, torch.permute, torch.t, torch.movedim, torch.moveaxis, torch.swapaxes, torch.swapdims),
    *(T.transpose, T.permute, T.t, T.movedim, T.moveaxis, T.swapaxes, T.swapdims, torch.adjoint, T.adjoint),
    *property_getters("T", "mT", "H", "mH"),
    *(T.transpose_, T.t_, T.swapaxes_, T.swapdims_),
    keeps_outermost=_first_is_kept,
)
def turned(call: Call) -> ResultAxes:
    """Permuted dimensions: the operation itself is run on a tensor of distinct sizes, which show the new order."""
    position = call.axes.position(call.subject)
    if position is None:
        return Mixed("rows of several examples were transposed")
    probe = torch.empty(list(range(2, 2 + call.subject.dim())), device="meta")
    order = [size - 2 for size in call.applied_to(probe).shape]
    return InDim(order.index(position[0]), position[1], call.axes.examples)


@axis_rule(
    *(torch.reshape, torch.flatten, torch.unflatten, torch.ravel, torch.squeeze, torch.unsqueeze),
    *(T.view, T.reshape, T.flatten, T.unflatten, T.ravel, T.squeeze, T.unsqueeze, T.view_as, T.reshape_as),
    *(T.squeeze_, T.unsqueeze_, torch.clone, T.clone, T.contiguous, T.to, T.type, T.type_as, T.float, T.double),
    *(T.half, T.bfloat16, T.detach, torch.detach, T.detach_, T.cpu, T.cuda, T.long, T.int, T.bool, T.requires_grad_),
    keeps_outermost=_first_divides,
)
def reshaped(call: Call) -> ResultAxes:
    """The same numbers in the same order."""
    subject, result = call.subject, call.result
    if subject.numel() != result.numel():
        return Mixed("seen as another type")
    axis = call.axes.of(subject)
    if isinstance(axis, Mixed):
        return axis
    if isinstance(axis, RowOwners):
        return _regrouped(axis, len(result) if result.dim() else 0)
    depth = call.axes.depth(subject)
    assert depth is not None
    return axis_at_depth(depth, result.shape, call.axes.examples)


def _regrouped(axis: RowOwners, rows: int) -> BatchAxis:
    """Return the axis after rows with owners were split or joined to `rows` rows."""
    before = len(axis.owner)
    if rows and rows % before == 0:
        return RowOwners(axis.owner.repeat_interleave(rows // before), axis.examples)
    if rows and before % rows == 0:
        owners = axis.owner.view(rows, -1)
        if bool((owners == owners[:, :1]).all()):
            return RowOwners(owners[:, 0].contiguous(), axis.examples)
    return Mixed("rows of several examples were joined")


@axis_rule(T.expand, T.expand_as, torch.broadcast_to, T.broadcast_to)
def expanded(call: Call) -> ResultAxes:
    """Repeated along new dimensions, which come first, or along dimensions of size 1."""
    position = call.axes.position(call.subject)
    new_dims = call.result.dim() - call.subject.dim()
    if position is None:
        return default_rule(call) if not new_dims else Mixed("rows of several examples were repeated")
    return InDim(position[0] + new_dims, position[1], call.axes.examples)
