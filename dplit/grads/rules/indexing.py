"""Parts of a parameter: selections by constants, repeats, and look-ups of rows by ids that examples bring.

Slices and other views need no rule: they are places in the parameter (`dplit.grads.factors.slices`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dplit.grads.factors.base import INSTANTIATED, DenseGrad, FactoredGrad, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.reshaped import ReshapedGrad
from dplit.grads.factors.row_sparse import RowSparseGrad
from dplit.grads.factors.rows import RowPerExampleGrad
from dplit.grads.factors.slices import Listed, SlicedGrad, view_place
from dplit.grads.rules.elementwise import broadcast_grad
from dplit.grads.rules.embedding import embedding
from dplit.grads.rules.views import by_example
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.registry import rule, vjp_rule

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape
    from dplit.grads.tape.tracked import Derived

ALL = slice(None)


# -- by constants ------------------------------------------------------------------------------------------------


@vjp_rule(
    *(torch.index_select, torch.take, torch.gather, torch.take_along_dim, torch.masked_select),
    *(torch.flip, torch.fliplr, torch.flipud, torch.roll, torch.rot90, torch.repeat_interleave),
    *(Tensor.index_select, Tensor.take, Tensor.gather, Tensor.take_along_dim, Tensor.masked_select),
    *(Tensor.flip, Tensor.fliplr, Tensor.flipud, Tensor.roll, Tensor.rot90, Tensor.repeat_interleave),
    *(Tensor.__getitem__, Tensor.unfold),
)
def selected(derived: Derived, use: FactoredGrad) -> FactoredGrad | None:
    """Numbers of p picked by constants: a place in p where each is picked once, else a look-up by each example."""
    graph, parent = derived.graph, derived.parents[0].tensor
    if len(derived.parents) > 1 or not graph.numel() or view_place(graph, parent):
        return None
    rows, width = _picked(derived)
    if _once(rows, parent.numel() // width):
        return SlicedGrad(use, Listed(tuple(graph.shape), tuple(parent.shape), rows.flatten(), width))
    if isinstance(use, OuterProductGrad) and graph.dim() == parent.dim() == 2 and width == parent.shape[1]:
        back = wide(use.back)
        merged = back.new_zeros(*back.shape[:2], parent.shape[0])
        return replace(use, back=merged.index_add_(2, rows.flatten(), back))
    return _looked_up(rows, width, use, parent)


def _picked(derived: Derived) -> tuple[Tensor, int]:
    """Return which row of p each row of d is, in d's leading shape, and the length of a row."""
    parent = derived.parents[0].tensor
    leading = _touched(derived)
    shape = parent.shape[:leading]
    rows = torch.arange(math.prod(shape), device=parent.device).view(shape)
    args = (rows if v is parent else v for v in derived.args)
    kwargs = {name: rows if v is parent else v for name, v in derived.kwargs.items()}
    return derived.operation(*args, **kwargs), math.prod(parent.shape[leading:])


def _touched(derived: Derived) -> int:
    """Return how many leading dimensions of p the operation concerns; the others it takes whole."""
    parent = derived.parents[0].tensor
    if derived.operation in (torch.index_select, Tensor.index_select):
        dim = derived.args[1] if len(derived.args) > 1 else derived.kwargs["dim"]
        return 1 if dim in (0, -parent.dim()) else parent.dim()
    if derived.operation is Tensor.__getitem__:
        items = derived.args[1] if isinstance(derived.args[1], tuple) else (derived.args[1],)
        if all(isinstance(item, Tensor) for item in items):
            return sum(item.dim() if item.dtype in (torch.bool, torch.uint8) else 1 for item in items)
    return parent.dim()


def _once(rows: Tensor, length: int) -> bool:
    """Whether no row is picked twice."""
    if rows.numel() > length:
        return False
    taken = torch.zeros(length, dtype=torch.bool, device=rows.device)
    taken[rows.flatten()] = True
    return int(taken.sum()) == rows.numel()


def _looked_up(rows: Tensor, width: int, use: FactoredGrad, parent: Tensor) -> FactoredGrad | None:
    """A look-up by each example, summed by row where p is no longer than what is looked up."""
    if isinstance(use, DenseGrad):
        ids = rows.reshape(1, -1).expand(use.examples, -1)
    elif isinstance(use, RowPerExampleGrad) and rows.dim():
        ids = rows.reshape(rows.shape[0], -1)[use.rows]
    else:
        return None
    length, positions = parent.numel() // width, ids.shape[1]
    table = RowSparseGrad(ids, wide(use.grads).reshape(use.examples, positions, width), length)
    if length <= positions:
        return DenseGrad(table.dense().view(use.examples, *parent.shape))
    if positions * positions > INSTANTIATED:
        return None
    return table if parent.shape == (length, width) else ReshapedGrad(table, (length, width), tuple(parent.shape))


@vjp_rule(Tensor.repeat, torch.tile, Tensor.tile)
def repeated(derived: Derived, use: FactoredGrad) -> FactoredGrad | None:
    """Sum over the repeats; a row repeated for each example is that example's."""
    shape, graph = tuple(derived.parents[0].tensor.shape), derived.graph
    padded = (1,) * (graph.dim() - len(shape)) + shape
    grads = by_example(use, padded)
    if grads is None:
        return None
    split = [
        part for whole, once in zip(grads.shape[1:], padded, strict=True) for part in (whole // max(1, once), once)
    ]
    times = list(range(1, 2 * len(padded), 2))
    summed = wide(grads).reshape(use.examples, *split).sum(times)
    return DenseGrad(summed.reshape(use.examples, *shape))


@vjp_rule(torch.tril, torch.triu, Tensor.tril, Tensor.triu)
def masked(derived: Derived, use: FactoredGrad) -> FactoredGrad | None:
    """What was set to zero has no gradient."""
    if not isinstance(use, DenseGrad):
        return None
    args = (use.grads if v is derived.parents[0].tensor else v for v in derived.args)
    kwargs = {name: use.grads if v is derived.parents[0].tensor else v for name, v in derived.kwargs.items()}
    return DenseGrad(derived.operation(*args, **kwargs))


# -- by data -----------------------------------------------------------------------------------------------------


@rule(Tensor.__getitem__, anywhere=True)
def item(tape: Tape, input: Tensor, index: Any) -> Tensor:
    """`input[index]` of a parameter with an index that is data.

    Ids that come with the examples outermost, alone or flattened with others, look rows up for each of them: what
    comes out is data. Any other index (one expert's number, a mask, ids of another length) picks one and the same
    part for whoever uses it, which is followed as a derivation.
    """
    found = _ids_by_example(tape, input, index)
    if found is None:
        return tape.derive(Tensor.__getitem__, (input, index), {})  # type: ignore[no-any-return]
    return _rows(tape, input, *found)


def _ids_by_example(tape: Tape, input: Tensor, index: Any) -> tuple[int, list[Tensor], tuple[Any, ...]] | None:
    """Return how many dimensions stand before the ids, the ids, and the slices, all as of `input`."""
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(i, slice | Tensor) or i is Ellipsis for i in items):
        return None
    if any(i is Ellipsis for i in items):
        at = next(k for k, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [ALL] * (input.dim() - len(items) + 1)
    ids = [i for i in items if isinstance(i, Tensor)]
    before = next(k for k, i in enumerate(items) if isinstance(i, Tensor))
    adjacent = all(isinstance(i, Tensor) for i in items[before : before + len(ids)])
    if not adjacent or not _by_example(tape, ids):
        return None
    return before, ids, tuple(i if isinstance(i, slice) else ALL for i in items)


def _by_example(tape: Tape, ids: list[Tensor]) -> bool:
    if any(i.dtype in (torch.bool, torch.uint8) for i in ids):
        return False
    shape = torch.broadcast_shapes(*(i.shape for i in ids))
    if not shape or not shape[0] or shape[0] % tape.examples:
        return False
    return any(not tape.is_constant(i) and i.dim() == len(shape) and i.shape[0] == shape[0] for i in ids)


def _rows(tape: Tape, p: Tensor, before: int, ids: list[Tensor], slices: tuple[Any, ...]) -> Tensor:
    """Look rows up in p with the dimensions that are looked up brought to the front and made one."""
    if any(s != ALL for s in slices):
        p = tape.derive(Tensor.__getitem__, (p, slices), {})
    if before:
        p = tape.derive(torch.movedim, (p, list(range(before, before + len(ids))), list(range(len(ids)))), {})
    sizes, rest = p.shape[: len(ids)], p.shape[len(ids) :]
    rows = torch.arange(math.prod(sizes), device=p.device).view(sizes)[tuple(ids)]
    if before or len(ids) > 1:
        for given in ids:
            if tape.layout(given) is not None:
                tape.by_example(Tensor.__getitem__, given, p)
    tape.keep_layout(ids[0], rows)
    table = p if p.dim() == 2 and len(ids) == 1 else tape.derive(torch.reshape, (p, (math.prod(sizes), -1)), {})
    looked_up = embedding(tape, rows, table)
    found = looked_up.reshape(*rows.shape, *rest)
    tape.keep_layout(looked_up, found)
    return found.movedim(list(range(rows.dim(), rows.dim() + before)), list(range(before))) if before else found


@rule(torch.index_select, Tensor.index_select)
def index_select(tape: Tape, input: Tensor, dim: int, index: Tensor) -> Tensor:
    """`torch.index_select` of a parameter by ids that are data, as `input[..., index, ...]`."""
    if index.dim() == 0:
        return tape.derive(torch.index_select, (input, dim, index), {})  # type: ignore[no-any-return]
    return item(tape, input, (ALL,) * (dim % input.dim()) + (index,))


@rule(torch.take, Tensor.take)
def take(tape: Tape, input: Tensor, index: Tensor) -> Tensor:
    """`torch.take` of a parameter by positions that are data."""
    return item(tape, tape.derive(torch.reshape, (input, (-1,)), {}), index)


@rule(torch.masked_select, Tensor.masked_select)
def masked_select(tape: Tape, input: Tensor, mask: Tensor) -> Tensor:
    """`torch.masked_select` of a parameter by a mask that is data: one selection for all."""
    return tape.derive(torch.masked_select, (input, mask), {})  # type: ignore[no-any-return]


class _Gather(RecordedFunction):
    @staticmethod
    def forward(ctx: Any, p: Tensor, dim: int, index: Tensor, tape: Tape) -> Tensor:
        ctx.tape, ctx.source, ctx.dim, ctx.shape = tape, tape.source(p), dim, p.shape
        ctx.save_for_backward(index)
        return p.gather(dim, index)

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        (index,) = saved
        back = wide(back.detach())
        grad = back.new_zeros(ctx.shape).scatter_add_(ctx.dim, index, back)
        ctx.tape.record(ctx.source, broadcast_grad(grad, ctx.shape, ctx.tape.examples))
        return None, None, None, None


@rule(torch.gather, Tensor.gather)
def gather(tape: Tape, input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """`torch.gather` of a parameter by an index that is data: from its own row by each example where they have one
    each (positions kept by a masked autoencoder), else a look-up of single numbers.
    """
    dim %= input.dim()
    if dim and input.shape[0] == index.shape[0] and index.shape[0] % tape.examples == 0:
        return _Gather.apply(input, dim, index, tape)  # type: ignore[no-any-return]
    numbers = torch.arange(input.numel(), device=input.device).view(input.shape)
    return take(tape, input, numbers.gather(dim, index))
