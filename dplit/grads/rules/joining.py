"""Parameters put beside data or in place of data: `torch.cat` of class tokens, `torch.where` of mask tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.rows import RowPerExampleGrad
from dplit.grads.rules.elementwise import broadcast_grad
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.rules.views import grads_by_example
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule, vjp_rule
from dplit.grads.types import Index, InputGradients, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape
    from dplit.grads.tape.tracked import DerivedTensor, Tracked


# -- beside data -------------------------------------------------------------------------------------------------

Join = Callable[[tuple[Tensor, ...]], Tensor]
Split = Callable[[Tensor], Sequence[Tensor]]
"""From the gradient of the joined tensor to those of its parts."""


class _Join(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, tape: Tape, join: Join, split: Split, *parts: Tensor) -> Tensor:
        ctx.tape, ctx.split, ctx.tracked = tape, split, [tape.tracked(p) for p in parts]
        ctx.shapes, ctx.dtypes = [p.shape for p in parts], [p.dtype for p in parts]
        return join(parts)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        input_grads: list[Tensor | None] = []
        for piece, tracked, shape, dtype in zip(ctx.split(back), ctx.tracked, ctx.shapes, ctx.dtypes, strict=True):
            input_grads.append(piece.to(dtype) if tracked is None else None)
            if tracked is not None:
                ctx.tape.record(tracked, broadcast_grad(wide(piece.detach()), shape, ctx.tape.examples))
        return None, None, None, *input_grads


def _join(
    tape: Tape,
    operation: TorchFunction,
    parts: Sequence[Tensor],
    dim: int,
    out: Tensor | None,
    join: Join,
    split: Split,
) -> Tensor:
    """Join data and tracked tensors that have rows for each example, along another dimension than the first."""
    if out is not None:
        raise tape.refusal(operation, tuple(parts), "is not supported with out=; use the result instead")
    if dim == 0:
        raise tape.refusal(operation, tuple(parts), "along dimension 0 puts it between the examples; use another")
    for p in parts:
        if tape.tracked(p) is None:
            tape.check_outermost(operation, p, *parts)
    return _Join.apply(tape, join, split, *parts)


@rule(torch.cat, torch.concat, torch.concatenate)
def cat(
    tape: Tape,
    tensors: Sequence[Tensor],
    dim: int = 0,
    *,
    axis: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`torch.cat` of data and parameters that have rows for each example, such as `cls.expand(n, -1, -1)`.

    Raises:
        UnsupportedOperation: it would put parameters between the examples, data does not have the examples outermost, or
            `out` is given.
    """
    tensors = [p for p in tensors if p.shape != (0,)]  # torch leaves them out, whatever the shapes of the others
    if out is None and all(tape.tracked(p) is not None or tape.is_constant(p) for p in tensors):
        return tape.derive(torch.cat, tensors, dim if axis is None else axis)
    dim = (dim if axis is None else axis) % tensors[0].dim()
    sizes = [p.shape[dim] for p in tensors]
    return _join(tape, torch.cat, tensors, dim, out, lambda p: torch.cat(p, dim), lambda g: g.split(sizes, dim))


@rule(torch.stack)
def stack(tape: Tape, tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> Tensor:
    """`torch.stack` of data and parameters that have rows for each example."""
    dim = dim % (tensors[0].dim() + 1)
    return _join(tape, torch.stack, tensors, dim, out, lambda p: torch.stack(p, dim), lambda g: g.unbind(dim))


@rule(torch.hstack)
def hstack(tape: Tape, tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """`torch.hstack`: `torch.cat` along the second dimension."""
    return cat(tape, tensors, min(1, tensors[0].dim() - 1), out=out)


AXIS: dict[TorchFunction | None, int] = {torch.vstack: 0, torch.hstack: 1, torch.dstack: 2}


@vjp_rule(torch.cat, torch.concat, torch.concatenate, torch.vstack, torch.hstack, torch.dstack)
def beside(derived: DerivedTensor, grad: FactoredGrad) -> list[tuple[Tracked, FactoredGrad]] | None:
    """Parameters joined to one another: each has the gradient of its part of the result."""
    attached, parts = derived.attached, _joined_tensors(derived)
    named: int = derived.kwargs.get("dim", derived.kwargs.get("axis", 0))
    dim: int = derived.args[1] if len(derived.args) > 1 else AXIS.get(derived.operation, named)
    dim = min(dim, attached.dim() - 1) % attached.dim()
    if any(part.dim() != attached.dim() for part in parts):
        return None
    starts = [sum(part.shape[dim] for part in parts[:k]) for k in range(len(parts))]
    parts_grads = [
        (part, _narrowed(grad, attached, dim, k, part.shape[dim])) for k, part in zip(starts, parts, strict=True)
    ]
    return _of_parents(derived, parts_grads)


@vjp_rule(torch.stack)
def stacked(derived: DerivedTensor, grad: FactoredGrad) -> list[tuple[Tracked, FactoredGrad]] | None:
    """Parameters stacked on one another: each has the gradient of its layer of the result."""
    dim = (derived.args[1] if len(derived.args) > 1 else derived.kwargs.get("dim", 0)) % derived.attached.dim()
    parts = _joined_tensors(derived)
    return _of_parents(derived, [(part, _layer(grad, derived.attached, dim, k)) for k, part in enumerate(parts)])


def _joined_tensors(derived: DerivedTensor) -> list[Tensor]:
    return list(derived.args[0] if derived.args else derived.kwargs["tensors"])


def _of_parents(
    derived: DerivedTensor, parts: Sequence[tuple[Tensor, FactoredGrad | None]]
) -> list[tuple[Tracked, FactoredGrad]] | None:
    """Return the gradients of the parts that are tracked, not constant; None if one of them is not known."""
    parents = {id(parent.tensor): parent for parent in derived.parents}
    tracked = [(parents[id(part)], grad) for part, grad in parts if id(part) in parents]
    known = [(parent, grad) for parent, grad in tracked if grad is not None]
    return known if len(known) == len(tracked) else None


def _narrowed(grad: FactoredGrad, attached: Tensor, dim: int, start: int, length: int) -> FactoredGrad | None:
    """Return the gradient of `attached.narrow(dim, start, length)` from that of `attached`, or None if no rule is known."""
    if isinstance(grad, DenseGrad):
        return DenseGrad(grad.grads.narrow(dim + 1, start, length))
    if isinstance(grad, RowPerExampleGrad) and dim:
        return replace(grad, grads=grad.grads.narrow(dim, start, length))
    if (isinstance(grad, OuterProductGrad) and attached.dim() == 2) or (
        isinstance(grad, BatchedOuterProductGrad) and attached.dim() == 3
    ):
        if dim == attached.dim() - 1:
            return replace(grad, x=grad.x.narrow(-1, start, length))
        if dim == attached.dim() - 2:
            return replace(grad, back=grad.back.narrow(-1, start, length))
        return replace(grad, x=grad.x.narrow(1, start, length), back=grad.back.narrow(1, start, length))
    return None


def _layer(grad: FactoredGrad, attached: Tensor, dim: int, index: int) -> FactoredGrad | None:
    """Return the gradient of `attached.select(dim, index)` from that of `attached`, or None if no rule is known."""
    if isinstance(grad, DenseGrad):
        return DenseGrad(grad.grads.select(dim + 1, index))
    if isinstance(grad, RowPerExampleGrad) and dim:
        return replace(grad, grads=grad.grads.select(dim, index))
    if isinstance(grad, BatchedOuterProductGrad) and attached.dim() == 3 and dim == 0:
        return OuterProductGrad(grad.x[:, index], grad.back[:, index])
    return None


# -- in place of data --------------------------------------------------------------------------------------------


class _Where(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, condition: Tensor, a: Tensor, b: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.tracked = tape, (tape.tracked(a), tape.tracked(b))
        ctx.shapes, ctx.dtypes = (a.shape, b.shape), (a.dtype, b.dtype)
        ctx.save_for_backward(condition)
        return torch.where(condition, a, b)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (condition,) = saved
        input_grads: list[Tensor | None] = [None, None]
        for i, kept in enumerate((condition, ~condition)):
            if ctx.tracked[i] is not None:
                grad = torch.where(kept, wide(back.detach()), 0)
                ctx.tape.record(ctx.tracked[i], broadcast_grad(grad, ctx.shapes[i], ctx.tape.examples))
            elif ctx.needs_input_grad[1 + i]:
                input_grads[i] = torch.where(kept, back, 0).sum_to_size(ctx.shapes[i]).to(ctx.dtypes[i])
        return None, *input_grads, None


@rule(torch.where)
def where(tape: Tape, condition: Tensor, input: Tensor | float, other: Tensor | float) -> Tensor:
    """`torch.where` of parameters broadcast against data, such as a mask token, with data, parameters or a number.

    Raises:
        UnsupportedOperation: data among the arguments does not have the examples outermost in the result.
    """
    like = next(v for v in (input, other) if isinstance(v, Tensor) and tape.tracked(v) is not None)
    a, b = (v if isinstance(v, Tensor) else like.new_tensor(v) for v in (input, other))
    out = torch.broadcast_shapes(condition.shape, a.shape, b.shape)
    for value in (condition, a, b):
        if tape.tracked(value) is None and not (tape.is_constant(value) or value.dim() == 0):
            _check_outermost_in(tape, torch.where, value, out, (a, b))
    return _Where.apply(condition, a, b, tape)


def _check_outermost_in(
    tape: Tape, operation: TorchFunction, value: Tensor, out: torch.Size, parameters: tuple[Tensor, ...]
) -> None:
    tape.check_outermost(operation, value, *parameters)
    if value.dim() != len(out) or value.shape[0] != out[0]:
        raise tape.refusal(
            operation,
            parameters,
            f"meets an activation of shape {tuple(value.shape)} that does not keep the {tape.examples} examples "
            f"outermost in {tuple(out)}; give it all dimensions, the examples first",
        )


@rule(Tensor.where)
def where_method(tape: Tape, input: Tensor, condition: Tensor, other: Tensor | float) -> Tensor:
    """`input.where(condition, other)`."""
    return where(tape, condition, input, other)


@rule(torch.masked_fill, Tensor.masked_fill)
def masked_fill(tape: Tape, input: Tensor, mask: Tensor, value: Tensor | float) -> Tensor:
    """`torch.masked_fill` of data with a parameter, or of a parameter by a mask that is data."""
    return where(tape, mask, value, input)


@rule(Tensor.masked_fill_, without_data=True)
def masked_fill_(tape: Tape, input: Tensor, mask: Tensor, value: Tensor | float) -> Tensor:
    """`input.masked_fill_(mask, value)` with a parameter as value."""
    _may_write(tape, Tensor.masked_fill_, input, value)
    return input.copy_(where(tape, mask, value, input.clone()))


class _Put(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, index: Index, value: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.tracked, ctx.index, ctx.shape = tape, tape.tracked(value), index, value.shape
        out = x.clone()
        out[index] = value
        return out

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        grad = wide(back.detach())
        ctx.tape.record(ctx.tracked, _put_grad(grad, ctx.index, ctx.shape, ctx.tape.examples))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        rest = back.clone()
        rest[ctx.index] = 0
        return rest, None, None, None


def _put_grad(grad: Tensor, index: Index, shape: torch.Size, examples: int) -> FactoredGrad:
    """Return the gradient, in factors, of a value of this shape that was written to `x[index]`.

    Args:
        grad: `(n·k, ...)`, the gradient of x.
        index: of any kind.
        shape: the value's own shape, which was broadcast to that of `x[index]`.
        examples: n.
    """
    count = torch.arange(len(grad), device=grad.device)
    rows, picked = count.view(-1, *[1] * (grad.dim() - 1)).expand_as(grad)[index], grad[index]
    trailing = shape[max(0, len(shape) - picked.dim()) :]
    in_order = picked.dim() > 0 and len(picked) == len(count) and bool((rows.movedim(0, -1) == count).all())
    if in_order and len(trailing) == len(shape):
        return broadcast_grad(picked, shape, examples)
    size = trailing.numel()
    number = torch.arange(size, device=grad.device).view(trailing).expand_as(picked)
    total = grad.new_zeros(examples * size)
    total.index_add_(0, (rows // (len(grad) // examples) * size + number).flatten(), picked.flatten())
    return DenseGrad(total.view(examples, *shape))


@rule(Tensor.__setitem__, without_data=True)
def put(tape: Tape, input: Tensor, index: Index, value: Tensor) -> None:
    """`x[index] = value` of an activation with a parameter as value, such as a mask token.

    Raises:
        UnsupportedOperation: it writes into a parameter, into a constant, or into data without the examples outermost.
    """
    _may_write(tape, Tensor.__setitem__, input, value)
    input.copy_(_Put.apply(input, index, value, tape))


def _may_write(tape: Tape, operation: TorchFunction, input: Tensor, value: object) -> None:
    if tape.tracked(input) is not None:
        raise tape.refusal(operation, (input,), "writes into a parameter in place; use torch.where instead")
    if tape.is_constant(input):
        raise tape.refusal(
            operation, (value,), "writes a parameter into a constant tensor; use torch.cat or torch.where instead"
        )
    tape.check_outermost(operation, input, value)


# -- mixed with data ---------------------------------------------------------------------------------------------


@rule(torch.lerp, Tensor.lerp)
def lerp(tape: Tape, input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """`input + weight · (end - input)`, each step by its own rule."""
    step = tape.apply_rule(torch.mul, tape.apply_rule(torch.sub, end, input), weight)
    return tape.apply_rule(torch.add, input, step)


@rule(torch.addcmul, Tensor.addcmul)
def addcmul(tape: Tape, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """`input + value · tensor1 · tensor2`, each step by its own rule."""
    product = tape.apply_rule(torch.mul, tape.apply_rule(torch.mul, tensor1, tensor2), value)
    return tape.apply_rule(torch.add, input, product)


SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)


@vjp_rule(*SUMS, torch.sub, Tensor.sub, Tensor.__sub__)
def shifted(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """A parameter plus constants (a relative bias plus the mask of shifted windows): summed over what it was broadcast to."""
    parent, attached = derived.parents[0].tensor, derived.attached
    operands = [k for k, v in enumerate(derived.args) if v is parent]
    if len(derived.parents) > 1 or derived.kwargs or operands not in ([0], [1]):
        return None
    if operands == [1] and derived.operation not in SUMS:
        return None
    shape = tuple(parent.shape)
    if shape == tuple(attached.shape):
        return grad
    padded = (1,) * (attached.dim() - len(shape)) + shape
    grads = grads_by_example(grad, padded)
    if grads is None:
        return None
    return DenseGrad(wide(grads).sum_to_size((grad.examples, *padded)).reshape(grad.examples, *shape))
