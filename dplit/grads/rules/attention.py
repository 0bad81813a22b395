"""Attention with learned parts: biases of relative positions in the mask, learned queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import wide
from dplit.grads.rules.elementwise import broadcast_grad
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.registry import rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _Lifted(RecordedFunction):
    """A tensor of parameters as each example's own."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rows: int, tape: Tape) -> Tensor:
        ctx.tape, ctx.source, ctx.shape = tape, tape.source(value), value.shape
        return value.detach().expand(rows, *value.shape[1:]).clone()

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        ctx.tape.record(ctx.source, broadcast_grad(wide(back), ctx.shape, ctx.tape.examples))
        return None, None, None


@rule(F.scaled_dot_product_attention)
def attention(
    tape: Tape, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """`F.scaled_dot_product_attention` where some of query, key, value and mask are parameters.

    Raises:
        UnsupportedOperation: none of query, key and value keeps the examples outermost, or a parameter has another
            number of rows than they.
    """
    given = [query, key, value, *([] if attn_mask is None else [attn_mask])]
    data = next((v for v in given[:3] if tape.source(v) is None and not tape.is_constant(v)), None)
    if data is None:
        raise tape.refusal(F.scaled_dot_product_attention, tuple(given), "got no query, key or value of the examples")
    tape.by_example(F.scaled_dot_product_attention, data, *given)
    lifted = [_lifted(tape, v, data) for v in given]
    attention: Any = F.scaled_dot_product_attention
    return attention(*lifted[:3], attn_mask if attn_mask is None else lifted[3], *args, **kwargs)  # type: ignore[no-any-return]


def _lifted(tape: Tape, value: Tensor, data: Tensor) -> Tensor:
    if tape.source(value) is None:
        return value
    if value.dim() < data.dim():
        value = tape.derive(Tensor.reshape, (value, (1,) * (data.dim() - value.dim()) + tuple(value.shape)), {})
    if value.shape[0] not in (1, len(data)):
        why = f"meets activations of shape {tuple(data.shape)}; give it one row, or one for each of theirs"
        raise tape.refusal(F.scaled_dot_product_attention, (value,), why)
    return _Lifted.apply(value, len(data), tape)  # type: ignore[no-any-return]
