"""Linear maps: `F.linear`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.tape.autocast import to_product_dtype
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape
    from dplit.grads.tape.tracked import Tracked


class _Linear(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias = tape, tape.tracked(weight), tape.tracked(bias)
        ctx.save_for_backward(x if ctx.weight else None, weight if ctx.needs_input_grad[0] else None)
        out = F.linear(x, weight, bias)
        return torch.ops.aten._unsafe_view(out, out.shape) if out._is_view() else out  # may be written to in place

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        x, weight = saved
        record_linear(ctx.tape, ctx.weight, ctx.bias, x, back)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        rows = back.reshape(-1, back.shape[-1]) @ weight.to(back.dtype)  # one product, where `@` might copy the weight
        return rows.view(*back.shape[:-1], -1), None, None, None


def record_linear(tape: Tape, weight: Tracked | None, bias: Tracked | None, x: Tensor | None, back: Tensor) -> None:
    """Record the gradients of W and b in y = x Wᵀ + b.

    Args:
        tape: records them.
        weight: W, or None if it is not tracked.
        bias: b, or None if it is not tracked.
        x: `(n·k, ..., d)`, or None if W is not tracked.
        back: `(n·k, ..., p)`, the gradient of y.
    """
    back = back.detach().reshape(tape.examples, -1, back.shape[-1])
    if weight is not None and x is not None:
        tape.record(weight, OuterProductGrad(x.detach().reshape(tape.examples, -1, x.shape[-1]), back))
    if bias is not None:
        summed = back[:, 0] if back.shape[1] == 1 else wide(back).sum(1)
        tape.record(bias, DenseGrad(summed if bias.tensor.numel() > 1 else summed.sum(1, keepdim=True)))


@rule(F.linear, any_batch_axis=True)
def linear(tape: Tape, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` with any number of leading dimensions.

    Raises:
        UnsupportedOperation: a weight is computed from data, or the map acts on the dimension of the examples.
    """
    tape.refuse_data(F.linear, weight, bias)
    return tape.apply_outermost(
        F.linear, lambda x: _Linear.apply(to_product_dtype(x), weight, bias, tape), input, weight, bias, over=1
    )
