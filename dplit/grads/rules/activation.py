"""Activations with parameters of their own: `F.prelu`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.registry import rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _PReLU(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight = tape, tape.source(weight)
        ctx.save_for_backward(x, weight)
        return F.prelu(x, weight)

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        (x, weight) = saved
        negative = wide(back.detach()) * wide(x.detach()).clamp(max=0)
        ctx.tape.record(ctx.weight, DenseGrad(_by_channel(negative, weight, ctx.tape.examples)))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        slope = weight.view(-1, *[1] * max(0, x.dim() - 2)) if weight.numel() > 1 else weight
        return torch.where(x > 0, back, back * slope).to(x.dtype), None, None


def _by_channel(grad: Tensor, weight: Tensor, examples: int) -> Tensor:
    """Sum `(n·k, channels, ...)` over all but the examples and, where the weight has them, the channels."""
    channels = weight.numel() if weight.numel() > 1 else 1
    split = grad.reshape(examples, -1, channels, grad[0].numel() // channels)
    return split.sum((1, 3)).view(examples, *weight.shape)


@rule(F.prelu, Tensor.prelu)
def prelu(tape: Tape, input: Tensor, weight: Tensor) -> Tensor:
    """`F.prelu` with one slope, or one for each channel (dimension 1)."""
    tape.by_example(F.prelu, input, weight)
    return _PReLU.apply(input, weight, tape)  # type: ignore[no-any-return]
