"""Transposes, reshapes and expansions: every number is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.grads.layout import Layout, Lost, Rows, Within, located
from dplit.grads.motion import Call, Found, carried, moves, others

T = Tensor


@moves(
    *(torch.transpose, torch.permute, torch.t, torch.movedim, torch.moveaxis, torch.swapaxes, torch.swapdims),
    *(T.transpose, T.permute, T.t, T.movedim, T.moveaxis, T.swapaxes, T.swapdims, torch.adjoint, T.adjoint),
    *(T.T.__get__, T.mT.__get__, T.H.__get__, T.mH.__get__),  # type: ignore[attr-defined]
    *(T.transpose_, T.t_, T.swapaxes_, T.swapdims_),
)
def turned(call: Call) -> Found:
    """Permuted dimensions: ask the operation itself, on a tensor whose sizes tell them apart."""
    place = call.layouts.place(call.subject)
    if place is None:
        return Lost("rows of several examples were transposed")
    if place == (0, 1) and _apart_from_first(call):
        return None
    probe = torch.empty(list(range(2, 2 + call.subject.dim())), device="meta")
    order = [size - 2 for size in call.operation(probe, *call.args[1:], **others(call)).shape]
    return Within(order.index(place[0]), place[1], call.layouts.examples)


def _apart_from_first(call: Call) -> bool:
    """Whether two dimensions were exchanged of which neither is the first: the frequent case, told at a glance."""
    dims = call.args[1:]
    if len(dims) != 2 or not all(isinstance(d, int) for d in dims):
        return False
    return 0 not in {d % call.subject.dim() for d in dims} and call.subject.dim() > 2


@moves(
    *(torch.reshape, torch.flatten, torch.unflatten, torch.ravel, torch.squeeze, torch.unsqueeze),
    *(T.view, T.reshape, T.flatten, T.unflatten, T.ravel, T.squeeze, T.unsqueeze, T.view_as, T.reshape_as),
    *(T.squeeze_, T.unsqueeze_, torch.clone, T.clone, T.contiguous, T.to, T.type, T.type_as, T.float, T.double),
    *(T.half, T.bfloat16, T.detach, torch.detach, T.detach_, T.cpu, T.cuda, T.long, T.int, T.bool, T.requires_grad_),
)
def reshaped(call: Call) -> Found:
    """The same numbers in the same order."""
    subject, result = call.subject, call.result
    if subject.numel() != result.numel():
        return Lost("seen as another type")
    layout = call.layouts.of(subject)
    if isinstance(layout, Lost):
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
    return Lost("rows of several examples were joined")


@moves(T.expand, T.expand_as, torch.broadcast_to, T.broadcast_to)
def expanded(call: Call) -> Found:
    """Repeated along new or single dimensions; new ones come first."""
    place = call.layouts.place(call.subject)
    further = call.result.dim() - call.subject.dim()
    if place is None:
        return carried(call) if not further else Lost("rows of several examples were repeated")
    return Within(place[0] + further, place[1], call.layouts.examples)
