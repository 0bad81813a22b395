"""Elementwise `add`, `sub`, `mul`, `div` with a broadcast parameter: scales, hand-written norms, position tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.batch_axis.axes import BatchAxis
from dplit.grads.factors.base import DenseGrad, FactoredGrad, wide
from dplit.grads.factors.rows import row_per_example_grad
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape

Slope = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the output gradient and the operands a and b to the gradient of one operand, in the output's shape."""


@dataclass(frozen=True)
class Elementwise:
    """An operation y = f(a, b) with its two slopes."""

    apply: Callable[[Tensor, Tensor], Tensor]
    slope_a: Slope
    slope_b: Slope
    needs_values: bool


ADD = Elementwise(torch.add, lambda g, a, b: g, lambda g, a, b: g, needs_values=False)
SUB = Elementwise(torch.sub, lambda g, a, b: g, lambda g, a, b: -g, needs_values=False)
MUL = Elementwise(torch.mul, lambda g, a, b: g * b, lambda g, a, b: g * a, needs_values=True)
DIV = Elementwise(torch.div, lambda g, a, b: g / b, lambda g, a, b: -g * a / (b * b), needs_values=True)


class _Elementwise(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, a: Tensor, b: Tensor, kind: Elementwise, tape: Tape) -> Tensor:
        ctx.tape, ctx.kind, ctx.tracked = tape, kind, (tape.tracked(a), tape.tracked(b))
        ctx.shapes, ctx.dtypes = (a.shape, b.shape), (a.dtype, b.dtype)
        ctx.save_for_backward(*((a, b) if kind.needs_values else (None, None)))
        return kind.apply(a, b)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (a, b) = saved
        input_grads: list[Tensor | None] = [None, None]
        for i, slope in enumerate((ctx.kind.slope_a, ctx.kind.slope_b)):
            if ctx.tracked[i] is not None:
                grad = wide(slope(back, a, b).detach())
                ctx.tape.record(ctx.tracked[i], broadcast_grad(grad, ctx.shapes[i], ctx.tape.examples))
            elif ctx.needs_input_grad[i]:
                input_grads[i] = slope(back, a, b).sum_to_size(ctx.shapes[i]).to(ctx.dtypes[i])
        return *input_grads, None, None


def broadcast_grad(grad: Tensor, shape: torch.Size, examples: int) -> FactoredGrad:
    """Return the gradient, in factors, of a tensor of this shape that was broadcast to the shape of `grad`.

    Args:
        grad: the gradient before it is summed over what was broadcast, `(n, ...)` or `(n·k, ...)`.
        shape: the tensor's own shape. It has k rows for each example, which no other example uses, only if it has as many
            dimensions as `grad` and starts with n·k > 1.
        examples: n.
    """
    if examples == 1:
        return DenseGrad(grad.sum_to_size(shape).unsqueeze(0))
    if len(shape) == grad.dim() and shape[0] == grad.shape[0] > 1:
        return row_per_example_grad(grad.sum_to_size(shape), examples)
    split = grad.reshape(examples, -1, *grad.shape[1:])
    if len(shape) == grad.dim():
        return DenseGrad(_sum_to(split.sum(1, keepdim=True), shape))
    return DenseGrad(_sum_to(split, shape))


def _sum_to(grad: Tensor, shape: torch.Size) -> Tensor:
    """Return `(n, *shape)`: the sum of `(n, ...)` over what a tensor of this shape was broadcast to."""
    extra = grad.dim() - 1 - len(shape)
    if extra:
        grad = grad.sum(tuple(range(1, 1 + extra)))
    kept = [i + 1 for i, size in enumerate(shape) if size == 1 and grad.shape[i + 1] != 1]
    return grad.sum(kept, keepdim=True) if kept else grad


def _apply_elementwise(tape: Tape, kind: Elementwise, a: Tensor, b: Tensor) -> Tensor:
    """Apply to one tracked tensor and one activation."""
    parameter, data = (a, b) if tape.tracked(a) is not None else (b, a)
    operation = kind.apply
    axis = tape.batch_axis(data)
    if axis is not None:
        return _apply_elsewhere(tape, kind, a, b, parameter, axis)
    out = torch.broadcast_shapes(a.shape, b.shape)
    tape.check_outermost(operation, data, parameter)
    rows = parameter.shape[0] if parameter.dim() == len(out) else 1
    kept = data.dim() == len(out) and data.shape[0] == out[0] and rows in (1, out[0])
    if not kept and tape.examples > 1:
        raise tape.refusal(
            operation,
            (parameter,),
            f"meets an activation of shape {tuple(data.shape)} that does not keep the {tape.examples} examples outermost",
        )
    return _Elementwise.apply(a, b, kind, tape)


def _apply_elsewhere(tape: Tape, kind: Elementwise, a: Tensor, b: Tensor, parameter: Tensor, axis: BatchAxis) -> Tensor:
    """Apply where the examples are not outermost in the activation: both operands are brought to that order first."""
    data = b if parameter is a else a
    ordered = tape.derive(axis.broadcast, parameter, data.dim()) if parameter.dim() <= data.dim() else None
    if ordered is None:
        raise tape.refusal(
            kind.apply, (parameter,), f"meets an activation of shape {tuple(data.shape)} in its examples"
        )
    pair = (lambda x: (ordered, x)) if parameter is a else (lambda x: (x, ordered))
    return tape.apply_outermost(kind.apply, lambda x: _apply_elementwise(tape, kind, *pair(x)), data, parameter)


def _register(kind: Elementwise, name: str, dunder: str) -> None:
    tensor = torch.Tensor

    def plain(tape: Tape, input: Tensor, other: Tensor, *, alpha: float = 1, **kwargs: object) -> Tensor:
        _refuse_options(tape, kind, (input, other), kwargs)
        return _apply_elementwise(tape, kind, input, _scaled(tape, other, alpha))

    def swapped(tape: Tape, input: Tensor, other: Tensor) -> Tensor:
        return _apply_elementwise(tape, kind, other, input)

    def in_place(tape: Tape, input: Tensor, other: Tensor, *, alpha: float = 1) -> Tensor:
        if tape.tracked(input) is not None:
            raise tape.refusal(kind.apply, (input,), "writes into a parameter in place; use the result instead")
        before = input.clone()
        tape.keep_batch_axis(input, before)
        return input.copy_(plain(tape, before, other, alpha=alpha))

    rule(getattr(torch, name), getattr(tensor, name), getattr(tensor, f"__{dunder}__"), any_batch_axis=True)(plain)
    rule(getattr(tensor, f"__r{dunder}__"), any_batch_axis=True)(swapped)
    rule(getattr(tensor, f"{name}_"), getattr(tensor, f"__i{dunder}__"), any_batch_axis=True)(in_place)


def _scaled(tape: Tape, other: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return other
    if tape.tracked(other) is not None:
        return tape.derive(torch.mul, other, alpha)
    scaled = torch.mul(other, alpha)
    tape.keep_batch_axis(other, scaled)
    return scaled


def _refuse_options(tape: Tape, kind: Elementwise, values: tuple[Tensor, ...], options: Mapping[str, object]) -> None:
    given = {k: v for k, v in options.items() if v is not None}
    if given:
        raise tape.refusal(kind.apply, values, f"is not supported with {', '.join(given)}=; leave it out")


for _kind, _name, _dunder in ((ADD, "add", "add"), (SUB, "sub", "sub"), (MUL, "mul", "mul"), (DIV, "div", "truediv")):
    _register(_kind, _name, _dunder)
