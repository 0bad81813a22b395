"""Views: the same numbers under other indices. The operation itself is applied to the owner map, which it only re-indexes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import (
    NONE,
    Columns,
    Meaning,
    Order,
    Owned,
    Positions,
    compact,
    joined_over,
    reshaped,
)
from dplit.grads.ownership.registry import owner_rule


def _subject(call: Call) -> Tensor:
    return next(call.tensors())


def _reapplied(call: Call) -> list[Tensor]:
    """Return what the operation makes of the owner map of its first tensor."""
    subject = _subject(call)
    arguments = {name: call.owner(subject) if v is subject else v for name, v in call.arguments.items()}
    result = call.operation(**arguments)
    return list(result) if isinstance(result, list | tuple) else [result]


@owner_rule(
    "detach", "alias", "lift_fresh", "_conj", "_neg_view", "view_as_complex", "view_as_real", "view_as_complex_copy"
)
def same(call: Call) -> Owned:
    """The same numbers; complex ones may become pairs."""
    subject, result = _subject(call), call.results[0]
    owned = call.owned(subject)
    if result.dim() > subject.dim():
        return Owned(owned.owner[..., None].expand(result.shape), (*owned.orders, None))
    if result.dim() < subject.dim():
        return Owned(joined_over(owned.owner, [-1], call.mixed, keepdim=False), owned.orders[:-1])
    return replace(owned, uniform=False)


@owner_rule(
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "flatten",
    "unflatten",
    "_reshape_copy",
    "view_copy",
    "_reshape_alias_copy",
)
def reshaped_(call: Call) -> Owned:
    """The same numbers in the same row-major order, or with another type's eyes."""
    subject, result = _subject(call), call.results[0]
    owned = call.owned(subject)
    if subject.numel() != result.numel():  # as another type, by the bytes of each row
        owner = joined_over(owned.owner, [-1], call.mixed)
        return Owned(owner.expand(result.shape)) if not owned.sized else call.all_mixed(result, "seen as another type")
    if owned.uniform:
        return replace(
            owned,
            owner=owned.owner.reshape(-1)[:1].expand(result.shape)
            if subject.numel()
            else owned.owner.new_full(result.shape, -1),
            orders=_regrouped(call, owned, subject, result) or _somewhere(owned, result),
        )
    orders = _regrouped(call, owned, subject, result) if owned.ordered else ()
    if orders is None:
        return call.all_mixed(result, "rows in an order that records decide are joined with others")
    return Owned(reshaped(owned.owner, result.shape), orders, meaning=_meaning_after(owned, subject, result))


def _somewhere(owned: Owned, result: Tensor) -> tuple[Order, ...]:
    """Return the orders of numbers that are all the same, of which records decide along some dimension how many there are."""
    return (("regrouped", owned.orders),) * result.dim()


def _meaning_after(owned: Owned, subject: Tensor, result: Tensor) -> Meaning:
    """Return what the numbers of a view stand for: positions stay positions; the rest only if nothing was left out."""
    whole = subject.numel() == result.numel() == max((1, *result.shape))
    if isinstance(owned.meaning, Columns) and len(owned.meaning.meanings) == 1:
        return owned.meaning.meanings[0]
    if isinstance(owned.meaning, Positions):
        return owned.meaning
    return owned.meaning if whole or (isinstance(owned.meaning, Columns) and subject.shape == result.shape) else None


def _regrouped(call: Call, owned: Owned, subject: Tensor, result: Tensor) -> tuple[Order, ...] | None:
    """Return the orders after a reshape, or None where rows in an order that records decide are regrouped."""
    orders: list[Order] = [None] * result.dim()
    for dim, order in enumerate(owned.orders):
        if order is None:
            continue
        place = _place_after(order, dim, subject.shape, result.shape)
        if place is not None:
            orders[place[0]] = place[1]
        elif not _rows_agree(owned.owner, result):
            return None
        else:
            call.conditional = True
    return tuple(orders)


def _place_after(order: Order, dim: int, before: Sequence[int], after: Sequence[int]) -> tuple[int, Order] | None:
    """Return which dimension has an order after a reshape, and the order: that of rows, or of runs of k numbers of each row."""
    outside, size = math.prod(before[:dim]), before[dim]
    same = _dim_at(after, outside, size)
    if same is not None:
        return same, order
    first = _dim_at(after, outside, None)
    if first is None or not size:
        return None
    if after[first] % size == 0:
        return first, ("runs", order, after[first] // size)
    if isinstance(order, tuple) and order[0] == "runs" and after[first] * order[2] == size:
        return first, order[1]
    return None


def _rows_agree(owner: Tensor, result: Tensor) -> bool:
    """Whether, of these records, each row of the result is one example's: another record might change that."""
    rows = reshaped(owner, result.shape).reshape(len(result), -1) if result.dim() > 1 and len(result) else None
    return rows is not None and rows.numel() > 0 and bool((rows == rows[:, :1]).all())


def _dim_at(shape: Sequence[int], outside: int, size: int | None) -> int | None:
    """Return the dimension that has so many numbers outside of it, and this size unless that is None."""
    before = 1
    for dim, own in enumerate(shape):
        if before == outside and (own == size if size is not None else own != 1):
            return dim
        before *= own
    return None


@owner_rule(
    *("permute", "transpose", "t", "movedim", "swapaxes", "unsqueeze", "squeeze", "expand", "numpy_T", "expand_copy"),
    *("permute_copy", "transpose_copy", "t_copy", "unsqueeze_copy", "squeeze_copy", "adjoint", "mT", "mH"),
)
def turned(call: Call) -> Owned:
    """Dimensions in another order, with or without dimensions of size 1, or repeated along them."""
    subject, result = _subject(call), call.results[0]
    owned = call.owned(subject)
    (owner,) = _reapplied(call)
    meaning = (
        owned.meaning
        if isinstance(owned.meaning, Columns) and call.name == "t"
        else _meaning_after(owned, subject, result)
    )
    return Owned(owner, _orders_after(call, owned, result), owned.uniform, meaning)


def _orders_after(call: Call, owned: Owned, result: Tensor) -> tuple[Order, ...]:
    if not owned.sized:
        return ()
    orders: list[Order] = [None] * result.dim()
    for dim, order in enumerate(owned.orders):
        if order is not None:
            orders[_where(call, dim)] = order
    return tuple(orders)


def _where(call: Call, dim: int) -> int:
    """Return which dimension of the result is a dimension of the subject, seen on a map that changes along it alone."""
    subject = _subject(call)
    size = subject.shape[dim]
    if size < 2:
        return min(dim, call.results[0].dim() - 1)
    marks = torch.arange(size).view([-1 if d == dim else 1 for d in range(subject.dim())]).expand(subject.shape)
    arguments = {name: marks if v is subject else v for name, v in call.arguments.items()}
    turned_marks = compact(call.operation(**arguments))
    return next(d for d, s in enumerate(turned_marks.shape) if s == size)


@owner_rule(
    *(
        "slice",
        "select",
        "narrow",
        "split",
        "split_with_sizes",
        "unbind",
        "chunk",
        "tensor_split",
        "diagonal",
        "unfold",
    ),
    *(
        "unsafe_split",
        "unsafe_chunk",
        "unsafe_split_with_sizes",
        "slice_copy",
        "select_copy",
        "diagonal_copy",
        "unfold_copy",
    ),
    *("split_copy", "split_with_sizes_copy", "unbind_copy", "flip", "roll", "repeat", "tile", "rot90"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
)
def chosen(call: Call) -> list[Owned]:
    """Numbers chosen by their place. Where records decide the order along a dimension, all of them decide what is at place i."""
    subject = _subject(call)
    owned = call.owned(subject)
    parts = _reapplied(call)
    orders = [_chosen_part(call, owned, part, result) for part, result in zip(parts, call.results, strict=True)]
    return [replace(o, meaning=_chosen_meaning(call, owned, k), uniform=owned.uniform) for k, o in enumerate(orders)]


def _chosen_meaning(call: Call, owned: Owned, part: int) -> Meaning:
    """Return what the numbers of a part stand for; of columns, the one that was chosen."""
    if isinstance(owned.meaning, Columns):
        if call.name not in ("select", "unbind") or owned.orders[call["dim"] % len(owned.orders)] is not None:
            return None
        column: int = call.get("index", default=part)
        return owned.meaning.meanings[column]
    if isinstance(owned.meaning, Positions):
        return owned.meaning
    return owned.meaning if call.results[part].shape == _subject(call).shape and call.name == "slice" else None


def _chosen_part(call: Call, owned: Owned, part: Tensor, result: Tensor) -> Owned:
    """Return the map of a part of a tensor with rows in an order that records decide."""
    if not owned.sized:
        return Owned(part)
    subject = _subject(call)
    dim = call.get("dim")
    along = dim % subject.dim() if isinstance(dim, int) else None
    if along is None or call.name not in _ONE_DIM:
        return call.all_mixed(result, "places in an order that records decide")
    if owned.orders[along] is not None and result.dim() == subject.dim() and result.shape == subject.shape:
        call.conditional |= call.get("end") is not None and call["end"] < 2**62
        return Owned(part, owned.orders)
    if owned.orders[along] is not None:
        return call.all_mixed(result, "places in an order that records decide")
    orders = owned.orders if result.dim() == subject.dim() else (*owned.orders[:along], *owned.orders[along + 1 :])
    return Owned(part, orders)


_ONE_DIM = frozenset(
    {
        *("slice", "select", "narrow", "split", "split_with_sizes", "unbind", "chunk", "tensor_split"),
        *("unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"),
    }
)


@owner_rule(
    "select_backward", "slice_backward", "diagonal_backward", "select_scatter", "slice_scatter", "diagonal_scatter"
)
def put_back(call: Call) -> Owned:
    """The numbers that a view showed, in their places in a tensor of zeros, or of another's numbers."""
    base, part = call.get("self"), call.get("src", "grad_output")
    owned, result = call.owned(part), call.results[0]
    if owned.sized or (base is not None and call.owned(base).sized):
        return _ordered_part(call, owned, base, result)
    owner = (
        torch.full(result.shape, NONE, dtype=torch.int32)
        if base is None
        else call.owner(base).clone(memory_format=torch.contiguous_format)
    )
    _view_of(call, owner).copy_(owned.owner)
    return Owned(owner)


def _view_of(call: Call, whole: Tensor) -> Tensor:
    """Return the view of a tensor that the operation speaks of."""
    name = call.name.rpartition("_")[0]
    settings = {k: v for k, v in call.arguments.items() if k not in ("self", "src", "grad_output", "input_sizes")}
    view: Tensor = {
        "select": torch.ops.aten.select.int,
        "slice": torch.ops.aten.slice.Tensor,
        "diagonal": torch.ops.aten.diagonal.default,
    }[name](whole, **settings)
    return view


def _ordered_part(call: Call, owned: Owned, base: Tensor | None, result: Tensor) -> Owned:
    """Return the map where records decide the order of rows: in other dimensions than the view's."""
    dim = call.get("dim")
    along = None if dim is None else dim % result.dim()
    orders = list(owned.orders)
    if call.name.startswith("select") and along is not None:
        orders.insert(along, None)
    whole = base is None and along is not None and len(orders) == result.dim() and not call.name.startswith("diagonal")
    if not whole or (orders[along or 0] is not None and tuple(owned.owner.shape) != tuple(result.shape)):
        return call.all_mixed(result, "places in an order that records decide")
    owner = torch.full(result.shape, NONE, dtype=torch.int32)
    _view_of(call, owner).copy_(owned.owner)
    rows = owner.amax([d for d in range(result.dim()) if orders[d] is None], keepdim=True) if owner.numel() else owner
    return Owned(rows.expand(result.shape), tuple(orders))
