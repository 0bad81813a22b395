"""Normalisation over the channels of one image: `F.group_norm`, and `F.instance_norm` that updates no running statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, wide
from dplit.grads.rules.batch_norm import by_fixed_statistics
from dplit.grads.tape.autocast import to_statistics_dtype
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


class _GroupNorm(RecordedFunction):
    @staticmethod
    def forward(
        ctx: Context, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, tape: Tape
    ) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias = tape, tape.tracked(weight), tape.tracked(bias)
        images, channels, positions = *x.shape[:2], x.shape[2:].numel()
        ctx.sizes = (images, channels, positions, groups)
        out, mean, rstd = torch.native_group_norm(x, weight, bias, images, channels, positions, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, weight, mean, rstd) = saved
        back = back.detach().contiguous()
        if ctx.weight is not None or ctx.bias is not None:
            sizes = (*back.shape[:2], -1)
            plain = wide(back).reshape(*sizes).sum(2)
            products = torch.linalg.vecdot(wide(back).reshape(*sizes), wide(x.detach()).reshape(*sizes))
            scale = _scales(products, plain, mean, rstd)
            ctx.tape.record(ctx.weight, DenseGrad(_by_example(scale, ctx.tape.examples)))
            ctx.tape.record(ctx.bias, DenseGrad(_by_example(plain, ctx.tape.examples)))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        mask = [True, False, False]
        grads = torch.ops.aten.native_group_norm_backward(back, x, mean, rstd, weight, *ctx.sizes, mask)
        return grads[0], None, None, None, None, None


def _scales(products: Tensor, plain: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Return Σ b (x - m) r of each image and channel, `(images, channels)`.

    Args:
        products: Σ b·x, `(images, channels)`.
        plain: Σ b, `(images, channels)`.
        mean: m, `(images, groups)`.
        rstd: r, one over the standard deviation, `(images, groups)`.
    """
    products, plain = (v.unflatten(1, (mean.shape[1], -1)) for v in (products, plain))
    return ((products - mean[..., None] * plain) * rstd[..., None]).flatten(1)


def _by_example(by_channel: Tensor, examples: int) -> Tensor:
    """Return `(n, channels)`: the sum over the images of each example."""
    summed: Tensor = by_channel.unflatten(0, (examples, -1)).sum(1)
    return summed


@rule(F.group_norm, any_batch_axis=True)
def group_norm(
    tape: Tape,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.group_norm`, whose statistics are of one image's channels and never of the batch.

    Raises:
        UnsupportedOperation: the input does not have the examples outermost, or a weight is computed from data.
    """
    return _normalise(tape, F.group_norm, input, num_groups, weight, bias, eps)


@rule(F.instance_norm, any_batch_axis=True)
def instance_norm(
    tape: Tape,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm` by the statistics of its input, a group norm with one group for each channel; or by fixed ones.

    Raises:
        ForbiddenOperation: it keeps running statistics, which hold data without noise.
    """
    if running_mean is not None and running_var is not None and not use_input_stats:
        return by_fixed_statistics(tape, F.instance_norm, input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None or running_var is not None or not use_input_stats:
        why = "keeps running statistics, which mix examples and hold them without noise; leave track_running_stats out"
        raise tape.forbidden(F.instance_norm, (weight, bias), why)
    return _normalise(tape, F.instance_norm, input, input.shape[1] if input.dim() > 1 else 1, weight, bias, eps)


def _normalise(
    tape: Tape, operation: TorchFunction, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    if x.dim() < 2 or (operation is F.instance_norm and x.dim() < 3):
        raise tape.refusal(operation, (weight, bias), f"got an activation of shape {tuple(x.shape)} without channels")
    tape.refuse_data(operation, weight, bias)
    return tape.apply_by_row(
        operation,
        lambda v: _GroupNorm.apply(to_statistics_dtype(v).contiguous(), groups, weight, bias, eps, tape),
        x,
        weight,
        bias,
    )
