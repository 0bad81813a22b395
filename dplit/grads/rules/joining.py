"""Parameters put beside, among or in place of data: `torch.cat` of class tokens, `torch.where` of mask tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.rows import RowPerExampleGrad
from dplit.grads.rules.elementwise import broadcast_grad
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.rules.views import by_example
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.registry import rule, vjp_rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape
    from dplit.grads.tape.tracked import Derived, Source


# -- one beside the other ----------------------------------------------------------------------------------------

Join = Callable[[tuple[Tensor, ...]], Tensor]
Part = Callable[[Tensor], Sequence[Tensor]]
"""From the joined tensor's gradient to those of its parts."""


class _Join(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, tape: Tape, join: Join, part: Part, *parts: Tensor) -> Tensor:
        ctx.tape, ctx.part, ctx.sources = tape, part, [tape.source(p) for p in parts]
        ctx.shapes, ctx.dtypes = [p.shape for p in parts], [p.dtype for p in parts]
        return join(parts)

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        found: list[Tensor | None] = []
        for piece, source, shape, dtype in zip(ctx.part(back), ctx.sources, ctx.shapes, ctx.dtypes, strict=True):
            found.append(piece.to(dtype) if source is None else None)
            if source is not None:
                ctx.tape.record(source, broadcast_grad(wide(piece.detach()), shape, ctx.tape.examples))
        return None, None, None, *found


def _join(tape: Tape, operation: Any, parts: Sequence[Tensor], dim: int, out: Any, join: Join, part: Part) -> Tensor:
    """Join data and parameters that have rows for each example."""
    if out is not None:
        raise tape.refusal(operation, tuple(parts), "is not supported with out=; use the result instead")
    if dim == 0:
        raise tape.refusal(operation, tuple(parts), "along dimension 0 puts it between the examples; use another")
    for p in parts:
        if tape.source(p) is None:
            tape.by_example(operation, p, *parts)
    return _Join.apply(tape, join, part, *parts)  # type: ignore[no-any-return]


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
        UnsupportedOperation: it would put parameters between the examples, or `out` is given.
    """
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


AXIS = {torch.vstack: 0, torch.hstack: 1, torch.dstack: 2}


@vjp_rule(torch.cat, torch.concat, torch.concatenate, torch.vstack, torch.hstack, torch.dstack)
def beside(derived: Derived, use: FactoredGrad) -> list[tuple[Source, FactoredGrad]] | None:
    """The part of a use that falls on each of the parameters put beside one another."""
    graph, parts = derived.graph, _listed(derived)
    dim = AXIS.get(derived.operation, derived.kwargs.get("dim", derived.kwargs.get("axis", 0)))
    if len(derived.args) > 1:
        dim = derived.args[1]
    dim = min(dim, graph.dim() - 1) % graph.dim()
    if any(part.dim() != graph.dim() for part in parts):
        return None
    starts = [sum(part.shape[dim] for part in parts[:k]) for k in range(len(parts))]
    spans = [(part, _narrowed(use, graph, dim, k, part.shape[dim])) for k, part in zip(starts, parts, strict=True)]
    return _owned(derived, spans)


@vjp_rule(torch.stack)
def stacked(derived: Derived, use: FactoredGrad) -> list[tuple[Source, FactoredGrad]] | None:
    """The part of a use that falls on each of the parameters stacked."""
    dim = (derived.args[1] if len(derived.args) > 1 else derived.kwargs.get("dim", 0)) % derived.graph.dim()
    parts = _listed(derived)
    return _owned(derived, [(part, _layer(use, derived.graph, dim, k)) for k, part in enumerate(parts)])


def _listed(derived: Derived) -> list[Tensor]:
    return list(derived.args[0] if derived.args else derived.kwargs["tensors"])


def _owned(
    derived: Derived, parts: Sequence[tuple[Tensor, FactoredGrad | None]]
) -> list[tuple[Source, FactoredGrad]] | None:
    """Drop constants, or give up where one of the uses is not known."""
    sources = {id(parent.tensor): parent for parent in derived.parents}
    owned = [(sources[id(part)], use) for part, use in parts if id(part) in sources]
    known = [(source, use) for source, use in owned if use is not None]
    return known if len(known) == len(owned) else None


def _narrowed(use: FactoredGrad, graph: Tensor, dim: int, start: int, length: int) -> FactoredGrad | None:
    """Return the use of `graph.narrow(dim, start, length)`."""
    if isinstance(use, DenseGrad):
        return DenseGrad(use.grads.narrow(dim + 1, start, length))
    if isinstance(use, RowPerExampleGrad) and dim:
        return replace(use, grads=use.grads.narrow(dim, start, length))
    if (isinstance(use, OuterProductGrad) and graph.dim() == 2) or (
        isinstance(use, BatchedOuterProductGrad) and graph.dim() == 3
    ):
        if dim == graph.dim() - 1:
            return replace(use, x=use.x.narrow(-1, start, length))
        if dim == graph.dim() - 2:
            return replace(use, back=use.back.narrow(-1, start, length))
        return replace(use, x=use.x.narrow(1, start, length), back=use.back.narrow(1, start, length))
    return None


def _layer(use: FactoredGrad, graph: Tensor, dim: int, index: int) -> FactoredGrad | None:
    """Return the use of `graph.select(dim, index)`."""
    if isinstance(use, DenseGrad):
        return DenseGrad(use.grads.select(dim + 1, index))
    if isinstance(use, RowPerExampleGrad) and dim:
        return replace(use, grads=use.grads.select(dim, index))
    if isinstance(use, BatchedOuterProductGrad) and graph.dim() == 3 and dim == 0:
        return OuterProductGrad(use.x[:, index], use.back[:, index])
    return None


# -- one in place of the other -----------------------------------------------------------------------------------


class _Where(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, condition: Tensor, a: Tensor, b: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.sources = tape, (tape.source(a), tape.source(b))
        ctx.shapes, ctx.dtypes = (a.shape, b.shape), (a.dtype, b.dtype)
        ctx.save_for_backward(condition)
        return torch.where(condition, a, b)

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        (condition,) = saved
        found: list[Tensor | None] = [None, None]
        for i, kept in enumerate((condition, ~condition)):
            if ctx.sources[i] is not None:
                grad = torch.where(kept, wide(back.detach()), 0)
                ctx.tape.record(ctx.sources[i], broadcast_grad(grad, ctx.shapes[i], ctx.tape.examples))
            elif ctx.needs_input_grad[1 + i]:
                found[i] = torch.where(kept, back, 0).sum_to_size(ctx.shapes[i]).to(ctx.dtypes[i])
        return None, found[0], found[1], None


@rule(torch.where)
def where(tape: Tape, condition: Tensor, input: Any, other: Any) -> Tensor:
    """`torch.where` of parameters broadcast against data, such as a mask token, with data, parameters or a number.

    Raises:
        UnsupportedOperation: data among the arguments does not have the examples outermost in the result.
    """
    known = next(v for v in (input, other) if tape.source(v) is not None)
    a, b = (v if isinstance(v, Tensor) else known.new_tensor(v) for v in (input, other))
    out = torch.broadcast_shapes(condition.shape, a.shape, b.shape)
    for value in (condition, a, b):
        if tape.source(value) is None and not (tape.is_constant(value) or value.dim() == 0):
            _outermost(tape, torch.where, value, out, (a, b))
    return _Where.apply(condition, a, b, tape)  # type: ignore[no-any-return]


def _outermost(tape: Tape, operation: Any, value: Tensor, out: torch.Size, parameters: tuple[Any, ...]) -> None:
    tape.by_example(operation, value, *parameters)
    if value.dim() != len(out) or value.shape[0] != out[0]:
        raise tape.refusal(
            operation,
            parameters,
            f"meets an activation of shape {tuple(value.shape)} that does not keep the {tape.examples} examples "
            f"outermost in {tuple(out)}; give it all dimensions, the examples first",
        )


@rule(Tensor.where)
def where_method(tape: Tape, input: Tensor, condition: Tensor, other: Any) -> Tensor:
    """`input.where(condition, other)`."""
    return where(tape, condition, input, other)


@rule(torch.masked_fill, Tensor.masked_fill)
def masked_fill(tape: Tape, input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`torch.masked_fill` of data with a parameter, or of a parameter by a mask that is data."""
    return where(tape, mask, value, input)


@rule(Tensor.masked_fill_, always=True)
def masked_fill_(tape: Tape, input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`input.masked_fill_(mask, value)` with a parameter as value."""
    _may_write(tape, Tensor.masked_fill_, input, value)
    return input.copy_(where(tape, mask, value, input.clone()))


class _Put(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Any, value: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.source, ctx.index, ctx.shape = tape, tape.source(value), index, value.shape
        out = x.clone()
        out[index] = value
        return out

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        grad = wide(back.detach())
        ctx.tape.record(ctx.source, _put_grad(grad, ctx.index, ctx.shape, ctx.tape.examples))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        rest = back.clone()
        rest[ctx.index] = 0
        return rest, None, None, None


def _put_grad(grad: Tensor, index: Any, shape: torch.Size, examples: int) -> FactoredGrad:
    """Return the use of a value of this shape that was written to `grad[index]`.

    Args:
        grad: `(n·k, ...)`
        index: of any kind.
        shape: the value's own; broadcast to `grad[index]`.
        examples: n.
    """
    count = torch.arange(len(grad), device=grad.device)
    rows, picked = count.view(-1, *[1] * (grad.dim() - 1)).expand_as(grad)[index], grad[index]
    own = shape[max(0, len(shape) - picked.dim()) :]
    in_order = picked.dim() > 0 and len(picked) == len(count) and bool((rows.movedim(0, -1) == count).all())
    if in_order and len(own) == len(shape):
        return broadcast_grad(picked, shape, examples)
    size = own.numel()
    number = torch.arange(size, device=grad.device).view(own).expand_as(picked)
    total = grad.new_zeros(examples * size)
    total.index_add_(0, (rows // (len(grad) // examples) * size + number).flatten(), picked.flatten())
    return DenseGrad(total.view(examples, *shape))


@rule(Tensor.__setitem__, always=True)
def put(tape: Tape, input: Tensor, index: Any, value: Any) -> None:
    """`x[index] = value` of an activation with a parameter as value, such as a mask token.

    Raises:
        UnsupportedOperation: it writes into a parameter, into constants, or into data without examples outermost.
    """
    _may_write(tape, Tensor.__setitem__, input, value)
    input.copy_(_Put.apply(input, index, value, tape))


def _may_write(tape: Tape, operation: Any, input: Tensor, value: Any) -> None:
    if tape.source(input) is not None:
        raise tape.refusal(operation, (input,), "writes into a parameter in place; use torch.where instead")
    if tape.is_constant(input):
        raise tape.refusal(
            operation, (value,), "writes a parameter into a constant tensor; use torch.cat or torch.where instead"
        )
    tape.by_example(operation, input, value)


# -- a mixture of both -------------------------------------------------------------------------------------------


@rule(torch.lerp, Tensor.lerp)
def lerp(tape: Tape, input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """`input + weight · (end - input)`, each step by its own rule."""
    step = _through(tape, torch.mul, _through(tape, torch.sub, end, input), weight)
    return _through(tape, torch.add, input, step)  # type: ignore[no-any-return]


@rule(torch.addcmul, Tensor.addcmul)
def addcmul(tape: Tape, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """`input + value · tensor1 · tensor2`, each step by its own rule."""
    product = _through(tape, torch.mul, _through(tape, torch.mul, tensor1, tensor2), value)
    return _through(tape, torch.add, input, product)  # type: ignore[no-any-return]


def _through(tape: Tape, operation: Any, *args: Any) -> Any:
    return tape.__torch_function__(operation, (), args)


SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)


@vjp_rule(*SUMS, torch.sub, Tensor.sub, Tensor.__sub__)
def shifted(derived: Derived, use: FactoredGrad) -> FactoredGrad | None:
    """A parameter plus constants (a relative bias plus the mask of shifted windows): summed over what was broadcast."""
    parent, graph = derived.parents[0].tensor, derived.graph
    own = [k for k, v in enumerate(derived.args) if v is parent]
    if len(derived.parents) > 1 or derived.kwargs or own not in ([0], [1]):
        return None
    if own == [1] and derived.operation not in SUMS:
        return None
    shape = tuple(parent.shape)
    if shape == tuple(graph.shape):
        return use
    padded = (1,) * (graph.dim() - len(shape)) + shape
    grads = by_example(use, padded)
    return (
        None
        if grads is None
        else DenseGrad(wide(grads).sum_to_size((use.examples, *padded)).reshape(use.examples, *shape))
    )
