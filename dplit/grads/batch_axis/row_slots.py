"""Rows of examples brought to slots, as many for each example, and back: operators of their own, so that they can be followed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op


@custom_op("dplit::rows_to_slots", mutates_args=())
def rows_to_slots(x: Tensor, owner: Tensor, examples: int, most: int) -> Tensor:
    """Return rows `(m, ...)` of examples `owner`, `(m,)`, as `(examples, most, ...)`, filled up with zeros.

    The rows of an example keep their order.
    """
    slot = _slots(owner, examples, most)
    filled = x.new_zeros(examples * most, *x.shape[1:]).index_copy(0, slot, x)
    slots: Tensor = filled.unflatten(0, (examples, most))
    return slots


@custom_op("dplit::slots_to_rows", mutates_args=())
def slots_to_rows(y: Tensor, owner: Tensor) -> Tensor:
    """Return the rows that `rows_to_slots` would have brought to these slots, in the order of `owner`, `(m,)`."""
    examples, most = y.shape[:2]
    return y.flatten(0, 1).index_select(0, _slots(owner, examples, most))


def most_rows(owner: Tensor, examples: int) -> int:
    """Return the largest number of rows that an example has, 1 at least."""
    return max(1, int(torch.bincount(owner, minlength=examples).max()))


def _slots(owner: Tensor, examples: int, most: int) -> Tensor:
    """Return which row of the flattened `(examples, most)` each row goes to, `(m,)`."""
    counts = torch.bincount(owner, minlength=examples)
    order = owner.argsort(stable=True)
    starts = (counts.cumsum(0) - counts)[owner[order]]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts
    return owner * most + rank


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor) -> None:
    ctx.owner = inputs[1]  # type: ignore[attr-defined]
    ctx.sizes = output.shape[:2] if len(inputs) == 4 else inputs[0].shape[:2]  # type: ignore[attr-defined]


rows_to_slots.register_autograd(
    lambda ctx, back: (slots_to_rows(back.contiguous(), ctx.owner), None, None, None), setup_context=_keep
)
slots_to_rows.register_autograd(
    lambda ctx, back: (rows_to_slots(back.contiguous(), ctx.owner, *ctx.sizes), None), setup_context=_keep
)
