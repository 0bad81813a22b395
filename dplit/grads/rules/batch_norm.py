"""`F.batch_norm` by fixed statistics, a map of each number by itself; by those of its input it is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _FixedNorm(RecordedFunction):
    """y = (x - m) r w + b with r = 1/√(v + eps), m, r, w and b one number for each channel."""

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        tape: Tape,
    ) -> Tensor:
        ctx.tape, ctx.eps = tape, eps
        ctx.weight, ctx.bias = tape.tracked(weight), tape.tracked(bias)
        ctx.save_for_backward(x if ctx.weight is not None else None, mean, var, weight)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, mean, var, weight) = saved
        rstd = (wide(var) + ctx.eps).rsqrt()
        if ctx.weight is not None:
            centred = wide(x.detach()) - _for_channels(wide(mean), x)
            scale = rstd * _by_example(wide(back.detach()) * centred, ctx.tape.examples)
            ctx.tape.record(ctx.weight, DenseGrad(scale))
        if ctx.bias is not None:
            ctx.tape.record(ctx.bias, DenseGrad(_by_example(wide(back.detach()), ctx.tape.examples)))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None, None
        slope = rstd if weight is None else rstd * wide(weight.detach())
        return back * _for_channels(slope, back).to(back.dtype), None, None, None, None, None, None


def _for_channels(values: Tensor, x: Tensor) -> Tensor:
    """Return `(channels,)` values in a shape that multiplies `x`, `(rows, channels, ...)`."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _by_example(values: Tensor, examples: int) -> Tensor:
    """Return `(n, channels)`: the sum of `(rows, channels, ...)` over the positions and rows of each example."""
    rows, channels, *positions = values.shape
    return values.reshape(examples, rows // examples, channels, math.prod(positions)).sum((1, 3))


@rule(F.batch_norm)
def batch_norm(
    tape: Tape,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` in eval mode, by running statistics that stay as they are.

    Raises:
        ForbiddenOperation: the statistics are those of the batch, which make each gradient depend on every example.
        UnsupportedOperation: they are computed from data or trained, or the input does not have the examples outermost.
    """
    if training or running_mean is None or running_var is None:
        why = "mixes the examples of a batch; use GroupNorm or LayerNorm instead, or eval mode, which fixes the statistics"
        raise tape.forbidden(F.batch_norm, (weight, bias), why)
    return by_fixed_statistics(tape, F.batch_norm, input, running_mean, running_var, weight, bias, eps)


def by_fixed_statistics(
    tape: Tape,
    operation: TorchFunction,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Normalise by statistics that belong to no example.

    Args:
        tape: that records.
        operation: for messages.
        x: `(rows, channels, ...)`.
        mean: `(channels,)`.
        var: `(channels,)`.
        weight: `(channels,)`, or None for 1.
        bias: `(channels,)`, or None for 0.
        eps: added to the variance.

    Raises:
        UnsupportedOperation: the statistics are not constant, or the input does not have the examples outermost.
    """
    if not (tape.is_constant(mean) and tape.is_constant(var)):
        why = "normalises by statistics that are computed or trained; keep them in buffers"
        raise tape.refusal(operation, (weight, bias, mean, var), why)
    tape.check_outermost(operation, x, weight, bias)
    tape.refuse_data(operation, weight, bias)
    return _FixedNorm.apply(x, mean, var, weight, bias, eps, tape)
