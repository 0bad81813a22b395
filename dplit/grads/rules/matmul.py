"""Matrix products with a parameter on either side: `torch.matmul`, `@`, `torch.mm`, `torch.bmm`, `torch.addmm`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, flattened, sq_norms, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.rows import row_per_example_grad
from dplit.grads.rules.linear import record_linear
from dplit.grads.tape.autocast import to_product_dtype
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


@dataclass(frozen=True)
class BatchedOuterProductGrad(FactoredGrad):
    """k linear maps side by side (heads, groups): gᵢₖ = Σₜ bᵢₖₜ xᵢₖₜᵀ, of shape (k, p, d).

    The maps have no number in common, so ‖gᵢ‖² = Σₖ ‖gᵢₖ‖², and each is computed as an `OuterProductGrad`.
    """

    x: Tensor
    """`(n, k, t, d)` activations."""
    back: Tensor
    """`(n, k, t, p)` output gradients."""

    @property
    def examples(self) -> int:
        return self.x.shape[0]

    @property
    def size(self) -> int:
        return self.x.shape[1] * self.x.shape[3] * self.back.shape[3]

    def select(self, index: Tensor | slice) -> BatchedOuterProductGrad:
        return BatchedOuterProductGrad(self.x[index], self.back[index])

    def dense(self) -> Tensor:
        return wide(self.back).mT @ wide(self.x)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        scaled = wide(self.back) * weights[:, None, None, None]
        back, x = (v.transpose(0, 1).flatten(1, 2) for v in (scaled, wide(self.x)))
        return back.mT @ x

    def sq_norm(self) -> Tensor:
        return self._folded().sq_norm().view(self.x.shape[:2]).sum(1)

    def factors_sq_norm(self) -> Tensor:
        return sq_norms(flattened(self.x)) + sq_norms(flattened(self.back))

    @property
    def factors_size(self) -> int:
        return self.x[:1].numel() + self.back[:1].numel()

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if not isinstance(other, BatchedOuterProductGrad):
            return None
        by_map = self._folded().inner_with(other._folded())
        return None if by_map is None else by_map.view(self.x.shape[:2]).sum(1)

    def _folded(self) -> OuterProductGrad:
        """Return the gradients of the n·k maps as if each were one of an example of its own."""
        return OuterProductGrad(wide(self.x).flatten(0, 1), wide(self.back).flatten(0, 1))


class _MatMul(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, left: bool, tape: Tape) -> Tensor:
        ctx.tape, ctx.tracked, ctx.left, ctx.shape = tape, tape.tracked(weight), left, weight.shape
        ctx.save_for_backward(x, weight if ctx.needs_input_grad[0] else None)
        return weight @ x if left else x @ weight

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, weight) = saved
        ctx.tape.record(ctx.tracked, matmul_grad(x.detach(), back.detach(), ctx.shape, ctx.left, ctx.tape.examples))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        turned = weight.to(back.dtype).mT
        return (turned @ back if ctx.left else back @ turned).sum_to_size(x.shape), None, None, None


def matmul_grad(x: Tensor, back: Tensor, shape: torch.Size, left: bool, examples: int) -> FactoredGrad:
    """Return the gradient, in factors, of W in y = x W (`left` False) or y = W x (`left` True).

    Args:
        x: `(n·r, ..., t, d)`, for W x `(n·r, ..., d, t)`.
        back: the gradient of y.
        shape: W's own, `(*batch, d, p)` or `(*batch, p, d)`. `batch` broadcasts against that of the activations; W has
            rows of its own for each example only if `batch` has as many dimensions as theirs and starts with n·r > 1.
        left: W stands on the left.
        examples: n.
    """
    inputs, outputs = (x.mT, back.mT) if left else (back, x)
    batch = back.shape[:-2]
    rows = (1,) * (len(batch) + 2 - len(shape)) + tuple(shape[:-2])
    inputs, outputs = (v.expand(*batch, *v.shape[-2:]) for v in (inputs, outputs))
    if rows and rows[0] > 1:
        return row_per_example_grad((wide(outputs).mT @ wide(inputs)).sum_to_size(shape), examples)
    if math.prod(rows) == 1:
        x_rows, back_rows = (v.reshape(examples, -1, v.shape[-1]) for v in (inputs, outputs))
        return OuterProductGrad(x_rows, back_rows)
    return BatchedOuterProductGrad(_by_map(inputs, rows, examples), _by_map(outputs, rows, examples))


def _by_map(value: Tensor, rows: tuple[int, ...], examples: int) -> Tensor:
    """Return `(n, k, t', d)` from `(n·r, ..., t, d)`: k over the dimensions in which W has rows, t' over all others."""
    split: Tensor = value.unflatten(0, (examples, -1))
    kept = [i + 1 for i, size in enumerate(rows) if size > 1]
    others = [i for i in range(1, split.dim() - 1) if i not in kept]
    ordered = split.permute(0, *kept, *others, split.dim() - 1)
    return ordered.reshape(examples, math.prod(rows), -1, value.shape[-1])


@rule(
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    torch.mm,
    Tensor.mm,
    torch.bmm,
    Tensor.bmm,
    torch.mv,
    Tensor.mv,
    any_batch_axis=True,
)
def matmul(
    tape: Tape, input: Tensor, mat2: Tensor | None = None, *, out: Tensor | None = None, **named: Tensor
) -> Tensor:
    """Matrix product of one tracked tensor and one activation that keeps the examples outermost.

    Raises:
        UnsupportedOperation: the product contracts or moves the examples, or `out` is given.
    """
    other = mat2 if mat2 is not None else next(iter(named.values()))
    left = tape.tracked(input) is not None
    weight, x = (input, other) if left else (other, input)
    if out is not None:
        raise tape.refusal(torch.matmul, (weight,), "is not supported with out=; use the result instead")
    if weight.dim() == 1:
        matrix = tape.derive(torch.unsqueeze, weight, 0 if left else 1)
        product = matmul(tape, matrix, x) if left else matmul(tape, x, matrix)
        return product.squeeze(-2 if left else -1)
    if not left and weight.dim() == 2 and x.dim() > 1:
        return tape.apply_outermost(
            torch.matmul, lambda v: _MatMul.apply(to_product_dtype(v), weight, left, tape), x, weight, over=1
        )
    tape.check_outermost(torch.matmul, x, weight)
    _keeps_examples(tape, weight, x, left)
    return _MatMul.apply(to_product_dtype(x), weight, left, tape)


@rule(Tensor.__rmatmul__, any_batch_axis=True)
def swapped(tape: Tape, input: Tensor, other: Tensor) -> Tensor:
    """`other @ input`."""
    return matmul(tape, other, input)


def _keeps_examples(tape: Tape, weight: Tensor, x: Tensor, left: bool) -> None:
    rows = weight.shape[0] if weight.dim() == x.dim() > 2 else 1
    outermost = x.dim() >= max(weight.dim(), 3 if left else 2)
    if not (outermost and rows in (1, x.shape[0])):
        raise tape.refusal(
            torch.matmul,
            (weight,),
            f"meets an activation of shape {tuple(x.shape)} in a way that does not keep the {tape.examples} "
            "examples outermost; put the examples first",
        )


class _AddMM(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, bias: Tensor, x: Tensor, weight: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.bias, ctx.weight = tape, tape.tracked(bias), tape.tracked(weight)
        ctx.save_for_backward(x if ctx.weight else None, weight if ctx.needs_input_grad[1] else None)
        return torch.addmm(bias, x, weight)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, weight) = saved
        record_linear(ctx.tape, None, ctx.bias, None, back)
        if ctx.weight is not None:
            grad = matmul_grad(
                x.detach(), back.detach(), torch.Size((x.shape[1], back.shape[1])), False, ctx.tape.examples
            )
            ctx.tape.record(ctx.weight, grad)
        return None, (back @ weight.to(back.dtype).mT if ctx.needs_input_grad[1] else None), None, None


@rule(torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm, any_batch_axis=True)
def addmm(
    tape: Tape,
    input: Tensor,
    mat1: Tensor | None = None,
    mat2: Tensor | None = None,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: Tensor | None = None,
    **named: Tensor,
) -> Tensor:
    """`beta·input + alpha·(mat1 @ mat2)`: in one piece in the form of Hugging Face's `Conv1D`, else step by step.

    Raises:
        UnsupportedOperation: one of the steps is refused, or `out` is given.
    """
    first, second = (v for v in (mat1, mat2, *named.values()) if v is not None)
    if out is not None:
        raise tape.refusal(torch.addmm, (input, first, second), "is not supported with out=; use the result instead")
    if beta == alpha == 1 and _is_affine(tape, input, first, second) and tape.batch_axis(first) is None:
        tape.check_outermost(torch.addmm, first, input, second)
        return _AddMM.apply(input, to_product_dtype(first), second, tape)
    product = tape.apply_rule(torch.mul, tape.apply_rule(torch.matmul, first, second), alpha)
    return tape.apply_rule(torch.add, product, tape.apply_rule(torch.mul, input, beta))


def _is_affine(tape: Tape, bias: Tensor, x: Tensor, weight: Tensor) -> bool:
    fixed = all(tape.tracked(v) is not None or not v.requires_grad for v in (bias, weight))
    return fixed and tape.tracked(x) is None and x.dim() == 2 and bias.shape == weight.shape[1:]


@rule(torch.einsum)
def einsum(tape: Tape, equation: object, *operands: Tensor | Sequence[Tensor]) -> Tensor:
    """`torch.einsum` of one activation x and one tracked tensor W where it is a matrix product.

    Any of x's letters may be kept, contracted or shared with W, but the letter of the examples comes first in x and in the
    result, and is not in W.

    Raises:
        UnsupportedOperation: another form.
    """
    given = [v for part in operands for v in ((part,) if isinstance(part, Tensor) else part)]
    letters = _letters(tape, equation, given) if isinstance(equation, str) and len(given) == 2 else None
    if letters is None:
        raise tape.refusal(
            torch.einsum, given, f"has no rule for {equation!r}; write it as x @ W with the examples first in x"
        )
    weight, x = sorted(given, key=lambda v: tape.tracked(v) is None)
    tape.check_outermost(torch.einsum, x, weight)
    return _contracted(tape, x, weight, *letters)


def _letters(tape: Tape, equation: str, operands: Sequence[Tensor]) -> tuple[list[str], list[str], list[str]] | None:
    """Return the letters of x, W and y, or None if this is no matrix product that keeps the examples outermost."""
    terms, _, after = equation.replace(" ", "").partition("->")
    first, _, second = terms.partition(",")
    left = tape.tracked(operands[0]) is not None
    term, w = (second, list(first)) if left else (first, list(second))
    data = operands[1] if left else operands[0]
    dots = [f".{i}" for i in range(data.dim() - len(term.replace("...", "")))]
    x, y = list(_spelled_out(term, dots)), list(_spelled_out(after, dots))
    once = all(len(set(v)) == len(v) for v in (x, w, y))
    known = set(w) <= {*x, *y} and set(x) <= {*w, *y} and set(y) <= {*x, *w} and "." not in w
    return (x, w, y) if once and known and x and y and x[0] == y[0] and x[0] not in w else None


def _spelled_out(term: str, dots: list[str]) -> Iterator[str]:
    """Yield the letters of a term, with the letters `dots` in place of an ellipsis."""
    before, ellipsis, after = term.partition("...")
    yield from (*before, *(dots if ellipsis else ()), *after)


def _contracted(tape: Tape, x: Tensor, weight: Tensor, xs: list[str], ws: list[str], ys: list[str]) -> Tensor:
    """Permute and reshape x and W, with these letters, to a (batched) matrix product, and its result to the letters ys."""
    sizes = dict(zip((*ws, *xs), (*weight.shape, *x.shape), strict=True))
    shared = [c for c in ws if c in xs and c in ys]
    summed = [c for c in ws if c not in ys]
    added = [c for c in ws if c not in xs]
    (example, *kept) = (c for c in xs if c not in ws)
    groups = [_size(sizes, shared)] if shared else []
    w = _arranged(tape, weight, ws, [*shared, *summed, *added], [*groups, _size(sizes, summed), _size(sizes, added)])
    order = [example, *shared, *kept, *summed]
    shape = [sizes[example], *groups, _size(sizes, kept), _size(sizes, summed)]
    y = matmul(tape, x.permute([xs.index(c) for c in order]).reshape(shape), w)
    result = [example, *shared, *kept, *added]
    return y.reshape([sizes[c] for c in result]).permute([result.index(c) for c in ys])


def _arranged(tape: Tape, weight: Tensor, have: list[str], want: list[str], shape: list[int]) -> Tensor:
    if have != want:
        weight = tape.derive(torch.permute, weight, [have.index(c) for c in want])
    return weight if list(weight.shape) == shape else tape.derive(torch.reshape, weight, shape)


def _size(sizes: dict[str, int], letters: list[str]) -> int:
    return math.prod(sizes[c] for c in letters)
