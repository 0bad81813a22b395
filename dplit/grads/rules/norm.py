"""Normalisation within one example: `F.layer_norm`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.batch_axis.axes import InDim
from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.tape.autocast import to_statistics_dtype
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _LayerNorm(RecordedFunction):
    @staticmethod
    def forward(
        ctx: Context, x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float, tape: Tape
    ) -> Tensor:
        ctx.tape, ctx.shape, ctx.weight, ctx.bias = tape, shape, tape.tracked(weight), tape.tracked(bias)
        out, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return out

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, weight, bias, mean, rstd) = saved
        if ctx.weight is not None or ctx.bias is not None:
            scale, shift = _by_example(wide(back.detach()), wide(x.detach()), mean, rstd, ctx.tape.examples)
            ctx.tape.record(ctx.weight, DenseGrad(scale.view(-1, *ctx.shape)))
            ctx.tape.record(ctx.bias, DenseGrad(shift.view(-1, *ctx.shape)))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        (grad, _, _) = torch.ops.aten.native_layer_norm_backward(
            back.contiguous(), x, ctx.shape, mean, rstd, weight, bias, [True, False, False]
        )
        return grad, None, None, None, None, None


def _by_example(back: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return Σₜ bᵢₜ (xᵢₜ - mᵢₜ) rᵢₜ and Σₜ bᵢₜ, both `(n, d)`, as matrix products of r, r·m and 1 with b·x and b.

    Args:
        back: b, the output gradients of n·t positions of d numbers.
        x: the activations, likewise.
        mean: m of each position.
        rstd: r of each position, one over the standard deviation.
        n: the number of examples.
    """
    rstd, mean = (v.reshape(n, 1, -1) for v in (rstd, mean))
    back, x = (v.reshape(n, rstd.shape[2], -1) for v in (back, x))
    shifted, plain = (torch.cat([rstd * mean, torch.ones_like(rstd)], 1) @ back).unbind(1)
    return (rstd @ (back * x))[:, 0] - shifted, plain


@rule(F.layer_norm, any_batch_axis=True)
def layer_norm(
    tape: Tape,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.layer_norm` over trailing dimensions.

    Raises:
        ForbiddenOperation: the normalised dimensions include the examples.
    """
    tape.refuse_data(F.layer_norm, weight, bias)
    within_one_example(tape, F.layer_norm, input, normalized_shape, weight, bias)
    return tape.apply_outermost(
        F.layer_norm,
        lambda x: _LayerNorm.apply(to_statistics_dtype(x), list(normalized_shape), weight, bias, eps, tape),
        input,
        weight,
        bias,
    )


def within_one_example(
    tape: Tape, operation: TorchFunction, x: Tensor, shape: Sequence[int], *parameters: object
) -> None:
    """Refuse statistics over the last dimensions, of this shape, if one of them is that of the examples.

    Raises:
        ForbiddenOperation: it is.
    """
    axis = tape.batch_axis(x)
    examples = axis.dim if isinstance(axis, InDim) else 0
    if len(shape) >= x.dim() - examples:
        raise tape.forbidden(operation, parameters, "normalises over the examples, which couples them")
