"""Transposes, reshapes and expansions: every number is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dplit.grads.batch_axis.layout import InDim, Layout, Mixed, Rows, located
from dplit.grads.batch_axis.propagate import Call, Found, others, propagates, unchanged

T = Tensor


def _first_is_kept(args: tuple[Any, ...], result: Any, examples: int) -> bool:
    """Two dimensions were exchanged of which neither is the first, or an order was given that begins with it."""
    size, dims = args[0].dim(), args[1:]
    if len(dims) == 2 and size > 2:
        return all(isinstance(d, int) and d % size != 0 for d in dims)
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return bool(len(order) == size > 2 and order[0] == 0)


def _first_divides(args: tuple[Any, ...], result: Any, examples: int) -> bool:
    """Flat order is kept, so the first dimension has the examples if it is long enough."""
    return isinstance(result, Tensor) and result.dim() > 0 and len(result) > 0 and len(result) % examples == 0


@propagates(
    *(torch.transpose, torch.permute, torch.t, torch.movedim, torch.moveaxis, torch.swapaxes, torch.swapdims),
    *(T.transpose, T.permute, T.t, T.movedim, T.moveaxis, T.swapaxes, T.swapdims, torch.adjoint, T.adjoint),
    *(T.T.__get__, T.mT.__get__, T.H.__get__, T.mH.__get__),  # type: ignore[attr-defined]
    *(T.transpose_, T.t_, T.swapaxes_, T.swapdims_),
    stays=_first_is_kept,
)
def turned(call: Call) -> Found:
    """Permuted dimensions: ask the operation itself, on a tensor whose sizes tell them apart."""
    place = call.layouts.place(call.subject)
    if place is None:
        return Mixed("rows of several examples were transposed")
    probe = torch.empty(list(range(2, 2 + call.subject.dim())), device="meta")
    order = [size - 2 for size in call.operation(probe, *call.args[1:], **others(call)).shape]
    return InDim(order.index(place[0]), place[1], call.layouts.examples)


@propagates(
    *(torch.reshape, torch.flatten, torch.unflatten, torch.ravel, torch.squeeze, torch.unsqueeze),
    *(T.view, T.reshape, T.flatten, T.unflatten, T.ravel, T.squeeze, T.unsqueeze, T.view_as, T.reshape_as),
    *(T.squeeze_, T.unsqueeze_, torch.clone, T.clone, T.contiguous, T.to, T.type, T.type_as, T.float, T.double),
    *(T.half, T.bfloat16, T.detach, torch.detach, T.detach_, T.cpu, T.cuda, T.long, T.int, T.bool, T.requires_grad_),
    stays=_first_divides,
)
def reshaped(call: Call) -> Found:
    """The same numbers in the same order."""
    subject, result = call.subject, call.result
    if subject.numel() != result.numel():
        return Mixed("seen as another type")
    layout = call.layouts.of(subject)
    if isinstance(layout, Mixed):
        return layout
    if isinstance(layout, Rows):
        return _regrouped(layout, len(result) if result.dim() else 0)
    depth = call.layouts.depth(subject)
    assert depth is not None
    return located(depth, result.shape, call.layouts.examples)


def _regrouped(layout: Rows, rows: int) -> Layout:
    have = len(layout.owner)
    if rows and rows % have == 0:
        return Rows(layout.owner.repeat_interleave(rows // have), layout.examples)
    if rows and have % rows == 0:
        parts = layout.owner.view(rows, -1)
        if bool((parts == parts[:, :1]).all()):
            return Rows(parts[:, 0].contiguous(), layout.examples)
    return Mixed("rows of several examples were joined")


@propagates(T.expand, T.expand_as, torch.broadcast_to, T.broadcast_to)
def expanded(call: Call) -> Found:
    """Repeated along new or single dimensions; new ones come first."""
    place = call.layouts.place(call.subject)
    further = call.result.dim() - call.subject.dim()
    if place is None:
        return unchanged(call) if not further else Mixed("rows of several examples were repeated")
    return InDim(place[0] + further, place[1], call.layouts.examples)
