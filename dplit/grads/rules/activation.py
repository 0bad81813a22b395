"""Activation functions that have parameters: `F.prelu`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _PReLU(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight = tape, tape.tracked(weight)
        ctx.save_for_backward(x, weight)
        return F.prelu(x, weight)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, weight) = saved
        negative = wide(back.detach()) * wide(x.detach()).clamp(max=0)
        ctx.tape.record(ctx.weight, DenseGrad(_by_channel(negative, weight, ctx.tape.examples)))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        slope = weight.view(-1, *[1] * max(0, x.dim() - 2)) if weight.numel() > 1 else weight
        return torch.where(x > 0, back, back * slope).to(x.dtype), None, None


def _by_channel(grad: Tensor, weight: Tensor, examples: int) -> Tensor:
    """Return `(n, *weight.shape)`: the sum of `(n·k, channels, ...)` over everything but the examples and, for several slopes,
    the channels.
    """
    channels = weight.numel() if weight.numel() > 1 else 1
    split = grad.reshape(examples, -1, channels, grad[0].numel() // channels)
    return split.sum((1, 3)).view(examples, *weight.shape)


@rule(F.prelu, Tensor.prelu, any_batch_axis=True)
def prelu(tape: Tape, input: Tensor, weight: Tensor) -> Tensor:
    """`F.prelu` with one slope, or one slope for each channel (dimension 1).

    Raises:
        UnsupportedOperation: the input does not have the examples outermost.
    """
    return tape.apply_by_row(F.prelu, lambda x: _PReLU.apply(x, weight, tape), input, weight)
