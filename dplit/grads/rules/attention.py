"""Attention with learned parts: biases of relative positions in the mask, or learned queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import wide
from dplit.grads.rules.elementwise import broadcast_grad
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _Expand(RecordedFunction):
    """Copies a tracked tensor for each row of the activations, so that the copies are data of the examples."""

    @staticmethod
    def forward(ctx: Context, value: Tensor, rows: int, tape: Tape) -> Tensor:
        ctx.tape, ctx.tracked, ctx.shape = tape, tape.tracked(value), value.shape
        return value.detach().expand(rows, *value.shape[1:]).clone()

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        ctx.tape.record(ctx.tracked, broadcast_grad(wide(back), ctx.shape, ctx.tape.examples))
        return None, None, None


@rule(F.scaled_dot_product_attention)
def attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *args: object,
    **kwargs: object,
) -> Tensor:
    """`F.scaled_dot_product_attention` where some of query, key, value and mask are parameters.

    Raises:
        UnsupportedOperation: none of query, key and value is data of the examples, or a parameter has neither one row nor
            as many rows as they.
    """
    given = [query, key, value, *([] if attn_mask is None else [attn_mask])]
    data = next((v for v in given[:3] if tape.tracked(v) is None and not tape.is_constant(v)), None)
    if data is None:
        raise tape.refusal(F.scaled_dot_product_attention, tuple(given), "got no query, key or value of the examples")
    tape.check_outermost(F.scaled_dot_product_attention, data, *given)
    expanded = [_expanded(tape, v, data) for v in given]
    plain: TorchFunction = F.scaled_dot_product_attention
    result: Tensor = plain(*expanded[:3], attn_mask if attn_mask is None else expanded[3], *args, **kwargs)
    return result


def _expanded(tape: Tape, value: Tensor, data: Tensor) -> Tensor:
    """Return data as it is, and a tracked tensor with as many rows as the data."""
    if tape.tracked(value) is None:
        return value
    if value.dim() < data.dim():
        value = tape.derive(Tensor.reshape, value, (1,) * (data.dim() - value.dim()) + tuple(value.shape))
    if value.shape[0] not in (1, len(data)):
        why = f"meets activations of shape {tuple(data.shape)}; give it one row, or one for each of theirs"
        raise tape.refusal(F.scaled_dot_product_attention, (value,), why)
    return _Expand.apply(value, len(data), tape)
