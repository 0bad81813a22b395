"""Parts of a parameter: selections by constants, repeats, and look-ups of rows by ids that are data.

Slices and other views need no rule: `dplit.grads.factors.slices` finds where they lie in the parameter.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.factors.base import MAX_INSTANTIATED, DenseGrad, FactoredGrad, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.reshaped import ReshapedGrad
from dplit.grads.factors.row_sparse import RowSparseGrad
from dplit.grads.factors.rows import RowPerExampleGrad
from dplit.grads.factors.slices import RowSlice, SlicedGrad, slice_of_view
from dplit.grads.rules.elementwise import broadcast_grad
from dplit.grads.rules.embedding import embedding
from dplit.grads.rules.views import grads_by_example
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule, vjp_rule
from dplit.grads.types import Index, InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape
    from dplit.grads.tape.tracked import DerivedTensor

ALL = slice(None)


# -- by constants ------------------------------------------------------------------------------------------------


@vjp_rule(
    *(torch.index_select, torch.take, torch.gather, torch.take_along_dim, torch.masked_select),
    *(torch.flip, torch.fliplr, torch.flipud, torch.roll, torch.rot90, torch.repeat_interleave),
    *(Tensor.index_select, Tensor.take, Tensor.gather, Tensor.take_along_dim, Tensor.masked_select),
    *(Tensor.flip, Tensor.fliplr, Tensor.flipud, Tensor.roll, Tensor.rot90, Tensor.repeat_interleave),
    *(Tensor.__getitem__, Tensor.unfold),
)
def selected(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """Numbers of p selected by constants: a slice of p if none is selected twice, else as if each example looked them up."""
    attached, parent = derived.attached, derived.parents[0].tensor
    if len(derived.parents) > 1 or not attached.numel() or slice_of_view(attached, parent):
        return None
    rows, width = _selected_rows(derived)
    if _no_repeats(rows, parent.numel() // width):
        return SlicedGrad(grad, RowSlice(tuple(attached.shape), tuple(parent.shape), rows.flatten(), width))
    if isinstance(grad, OuterProductGrad) and attached.dim() == parent.dim() == 2 and width == parent.shape[1]:
        back = wide(grad.back)
        merged = back.new_zeros(*back.shape[:2], parent.shape[0])
        return replace(grad, back=merged.index_add_(2, rows.flatten(), back))
    return _looked_up(rows, width, grad, parent)


def _selected_rows(derived: DerivedTensor) -> tuple[Tensor, int]:
    """Return which row of p each row of d is, in d's leading shape, and how many numbers a row has."""
    parent = derived.parents[0].tensor
    leading = _indexed_dims(derived)
    shape = parent.shape[:leading]
    rows = torch.arange(math.prod(shape), device=parent.device).view(shape)
    return derived.apply_to(rows), math.prod(parent.shape[leading:])


def _indexed_dims(derived: DerivedTensor) -> int:
    """Return how many leading dimensions of p the operation selects from; it takes the others whole."""
    parent = derived.parents[0].tensor
    if derived.operation in (torch.index_select, Tensor.index_select):
        dim = derived.args[1] if len(derived.args) > 1 else derived.kwargs["dim"]
        return 1 if dim in (0, -parent.dim()) else parent.dim()
    if derived.operation is Tensor.__getitem__:
        items = derived.args[1] if isinstance(derived.args[1], tuple) else (derived.args[1],)
        if all(isinstance(item, Tensor) for item in items):
            return sum(item.dim() if item.dtype in (torch.bool, torch.uint8) else 1 for item in items)
    return parent.dim()


def _no_repeats(rows: Tensor, length: int) -> bool:
    """Whether no row number, out of `length`, occurs twice."""
    if rows.numel() > length:
        return False
    taken = torch.zeros(length, dtype=torch.bool, device=rows.device)
    taken[rows.flatten()] = True
    return int(taken.sum()) == rows.numel()


def _looked_up(rows: Tensor, width: int, grad: FactoredGrad, parent: Tensor) -> FactoredGrad | None:
    """Return the gradient of p as if each example had looked these rows up; None if no rule is cheap.

    It is built, summed by row, where p has no more rows than are looked up.
    """
    if isinstance(grad, DenseGrad):
        ids = rows.reshape(1, -1).expand(grad.examples, -1)
    elif isinstance(grad, RowPerExampleGrad) and rows.dim():
        ids = rows.reshape(rows.shape[0], -1)[grad.rows]
    else:
        return None
    length, positions = parent.numel() // width, ids.shape[1]
    table = RowSparseGrad(ids, wide(grad.grads).reshape(grad.examples, positions, width), length)
    if length <= positions:
        return DenseGrad(table.dense().view(grad.examples, *parent.shape))
    if positions * positions > MAX_INSTANTIATED:
        return None
    return table if parent.shape == (length, width) else ReshapedGrad(table, (length, width), tuple(parent.shape))


@vjp_rule(Tensor.repeat, torch.tile, Tensor.tile)
def repeated(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """Repeats: the gradient is summed over them; a row repeated for each example is that example's gradient."""
    shape, attached = tuple(derived.parents[0].tensor.shape), derived.attached
    padded = (1,) * (attached.dim() - len(shape)) + shape
    grads = grads_by_example(grad, padded)
    if grads is None:
        return None
    sizes = zip(grads.shape[1:], padded, strict=True)
    split = [size for repeated, once in sizes for size in (repeated // max(1, once), once)]
    repeats = list(range(1, 2 * len(padded), 2))
    summed = wide(grads).reshape(grad.examples, *split).sum(repeats)
    return DenseGrad(summed.reshape(grad.examples, *shape))


@vjp_rule(torch.tril, torch.triu, Tensor.tril, Tensor.triu)
def masked(derived: DerivedTensor, grad: FactoredGrad) -> FactoredGrad | None:
    """Numbers that were set to zero have gradient zero."""
    if not isinstance(grad, DenseGrad):
        return None
    return DenseGrad(derived.apply_to(grad.grads))


# -- by data -----------------------------------------------------------------------------------------------------


@rule(Tensor.__getitem__, any_batch_axis=True)
def item(tape: Tape, input: Tensor, index: Index) -> Tensor:
    """`input[index]` of a parameter with an index that is data.

    Ids that have the examples outermost, alone or flattened with other dimensions, look up rows for each example, and the
    result is data. Every other index (the number of one expert, a mask, ids of another length) selects the same part for all
    examples, and the result is tracked as a derived tensor.
    """
    look_up = _ids_by_example(tape, input, index)
    if look_up is None:
        return tape.derive(Tensor.__getitem__, input, index)
    return _look_up(tape, input, *look_up)


def _ids_by_example(tape: Tape, input: Tensor, index: Index) -> tuple[int, list[Tensor], tuple[slice, ...]] | None:
    """Return how many dimensions of `input` come before the ids, the ids, and a slice for each dimension of `input`.

    None if the index is not made of slices and adjacent ids of each example.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(i, slice | Tensor) or i is Ellipsis for i in items):
        return None
    if any(i is Ellipsis for i in items):
        at = next(k for k, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [ALL] * (input.dim() - len(items) + 1)
    ids = [i for i in items if isinstance(i, Tensor)]
    before = next(k for k, i in enumerate(items) if isinstance(i, Tensor))
    adjacent = all(isinstance(i, Tensor) for i in items[before : before + len(ids)])
    if not adjacent or not _are_by_example(tape, ids):
        return None
    return before, ids, tuple(i if isinstance(i, slice) else ALL for i in items)


def _are_by_example(tape: Tape, ids: list[Tensor]) -> bool:
    """Whether ids, broadcast against one another, are data that have the examples outermost."""
    if any(i.dtype in (torch.bool, torch.uint8) for i in ids):
        return False
    shape = torch.broadcast_shapes(*(i.shape for i in ids))
    if not shape or not shape[0] or shape[0] % tape.examples:
        return False
    return any(not tape.is_constant(i) and i.dim() == len(shape) and i.shape[0] == shape[0] for i in ids)


def _look_up(tape: Tape, p: Tensor, before: int, ids: list[Tensor], slices: tuple[slice, ...]) -> Tensor:
    """Look up rows of p, after moving the dimensions that the ids index to the front and flattening them."""
    if any(s != ALL for s in slices):
        p = tape.derive(Tensor.__getitem__, p, slices)
    if before:
        p = tape.derive(torch.movedim, p, list(range(before, before + len(ids))), list(range(len(ids))))
    sizes, rest = p.shape[: len(ids)], p.shape[len(ids) :]
    rows = torch.arange(math.prod(sizes), device=p.device).view(sizes)[tuple(ids)]
    if before or len(ids) > 1:
        for id_tensor in ids:
            if tape.batch_axis(id_tensor) is not None:
                tape.check_outermost(Tensor.__getitem__, id_tensor, p)
    tape.keep_batch_axis(ids[0], rows)
    table = p if p.dim() == 2 and len(ids) == 1 else tape.derive(torch.reshape, p, (math.prod(sizes), -1))
    looked_up = embedding(tape, rows, table)
    result = looked_up.reshape(*rows.shape, *rest)
    tape.keep_batch_axis(looked_up, result)
    return result.movedim(list(range(rows.dim(), rows.dim() + before)), list(range(before))) if before else result


@rule(torch.index_select, Tensor.index_select)
def index_select(tape: Tape, input: Tensor, dim: int, index: Tensor) -> Tensor:
    """`torch.index_select` of a parameter by ids that are data, as `input[..., index, ...]`."""
    if index.dim() == 0:
        return tape.derive(torch.index_select, input, dim, index)
    return item(tape, input, (ALL,) * (dim % input.dim()) + (index,))


@rule(torch.take, Tensor.take)
def take(tape: Tape, input: Tensor, index: Tensor) -> Tensor:
    """`torch.take` of a parameter by positions that are data."""
    return item(tape, tape.derive(torch.reshape, input, (-1,)), index)


@rule(torch.masked_select, Tensor.masked_select)
def masked_select(tape: Tape, input: Tensor, mask: Tensor) -> Tensor:
    """`torch.masked_select` of a parameter by a mask that is data, which selects the same numbers for all examples."""
    return tape.derive(torch.masked_select, input, mask)


class _Gather(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, p: Tensor, dim: int, index: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.tracked, ctx.dim, ctx.shape = tape, tape.tracked(p), dim, p.shape
        ctx.save_for_backward(index)
        return p.gather(dim, index)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (index,) = saved
        back = wide(back.detach())
        grad = back.new_zeros(ctx.shape).scatter_add_(ctx.dim, index, back)
        ctx.tape.record(ctx.tracked, broadcast_grad(grad, ctx.shape, ctx.tape.examples))
        return None, None, None, None


@rule(torch.gather, Tensor.gather)
def gather(tape: Tape, input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """`torch.gather` of a parameter by an index that is data.

    Where the parameter has rows for each example (the positions that a masked autoencoder keeps), each example gathers from
    its own rows; otherwise single numbers are looked up.
    """
    dim %= input.dim()
    if dim and input.shape[0] == index.shape[0] and index.shape[0] % tape.examples == 0:
        return _Gather.apply(input, dim, index, tape)
    numbers = torch.arange(input.numel(), device=input.device).view(input.shape)
    return take(tape, input, numbers.gather(dim, index))
