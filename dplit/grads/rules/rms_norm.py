"""Root-mean-square normalisation within one example: `F.rms_norm`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.rules.norm import within_one_example
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _RMSNorm(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, shape: list[int], weight: Tensor, eps: float, tape: Tape) -> Tensor:
        ctx.tape, ctx.shape, ctx.eps, ctx.tracked = tape, shape, eps, tape.tracked(weight)
        ctx.save_for_backward(x, weight)
        return F.rms_norm(x, shape, weight, eps)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        back, (x, weight) = wide(back.detach()), saved
        over = list(range(-len(ctx.shape), 0))
        values = wide(x.detach())
        scale = torch.rsqrt(values.square().mean(over, keepdim=True) + ctx.eps)
        normalised = values * scale
        if ctx.tracked is not None:
            by_example = (back * normalised).reshape(ctx.tape.examples, -1, *ctx.shape).sum(1)
            ctx.tape.record(ctx.tracked, DenseGrad(by_example))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        inward = back * weight
        grad = scale * (inward - normalised * (inward * normalised).mean(over, keepdim=True))
        return grad.to(x.dtype), None, None, None, None


@rule(F.rms_norm, any_batch_axis=True)
def rms_norm(
    tape: Tape, input: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float | None = None
) -> Tensor:
    """`F.rms_norm` over trailing dimensions; without `eps`, the epsilon of the input's type.

    Raises:
        ForbiddenOperation: the normalised dimensions include the examples.
    """
    within_one_example(tape, F.rms_norm, input, normalized_shape, weight)
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return tape.apply_outermost(
        F.rms_norm, lambda x: _RMSNorm.apply(x, list(normalized_shape), weight, eps, tape), input, weight
    )
