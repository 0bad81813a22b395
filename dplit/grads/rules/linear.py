"""Linear maps: `F.linear`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.tape.autocast import narrowed
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.registry import rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape
    from dplit.grads.tape.tracked import Source


class _Linear(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias = tape, tape.source(weight), tape.source(bias)
        ctx.save_for_backward(x if ctx.weight else None, weight if ctx.needs_input_grad[0] else None)
        out = F.linear(x, weight, bias)
        return torch.ops.aten._unsafe_view(out, out.shape) if out._is_view() else out  # may be written to in place

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        x, weight = saved
        record_linear(ctx.tape, ctx.weight, ctx.bias, x, back)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        rows = back.reshape(-1, back.shape[-1]) @ weight.to(back.dtype)  # one product, where `@` might copy the weight
        return rows.view(*back.shape[:-1], -1), None, None, None


def record_linear(tape: Tape, weight: Source | None, bias: Source | None, x: Tensor | None, back: Tensor) -> None:
    """Record y = x Wᵀ + b, examples outermost in both x and its output gradient."""
    back = back.detach().reshape(tape.examples, -1, back.shape[-1])
    if weight is not None and x is not None:
        tape.record(weight, OuterProductGrad(x.detach().reshape(tape.examples, -1, x.shape[-1]), back))
    if bias is not None:
        summed = back[:, 0] if back.shape[1] == 1 else wide(back).sum(1)
        tape.record(bias, DenseGrad(summed if bias.tensor.numel() > 1 else summed.sum(1, keepdim=True)))


@rule(F.linear, anywhere=True)
def linear(tape: Tape, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` with any number of leading dimensions."""
    tape.refuse_data(F.linear, weight, bias)
    return tape.outermost(
        F.linear, lambda x: _Linear.apply(narrowed(x), weight, bias, tape), input, weight, bias, over=1
    )
