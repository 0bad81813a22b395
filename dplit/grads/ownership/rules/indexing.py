"""Indexing, gathering and scattering: by constants, by an example's own numbers, or by positions of rows that are followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dplit.grads.ownership.call import Call, orders_joined
from dplit.grads.ownership.owner_map import (
    NONE,
    Columns,
    Order,
    Owned,
    Positions,
    Ranks,
    RowNumbers,
    Shuffle,
    compact,
    joined_over,
    tidied,
)
from dplit.grads.ownership.registry import owner_rule

ELSEWHERE = "rows in an order that records decide are indexed by something else"


@dataclass(frozen=True)
class Index:
    """An index along one dimension: its values on the CPU, and what it depends on."""

    values: Tensor
    owned: Owned

    @property
    def constant(self) -> bool:
        """Whether no example decides where it points."""
        return self.owned.is_constant

    @property
    def of_this_batch(self) -> bool:
        """Whether a constant index may point elsewhere in another batch of the same path."""
        return not isinstance(self.owned.meaning, RowNumbers)


# -- reading ---------------------------------------------------------------------------------------------------------


def readable(call: Call, owned: Owned, dim: int, index: Index) -> tuple[Tensor, str]:
    """Return the owners of a tensor's numbers, for reading at an index along a dimension, and why that mixes, if it does.

    An index that examples decide may point anywhere along the dimension, so that what is read depends on all that is there;
    unless it holds positions of rows that its own examples own.
    """
    owner, meaning = owned.owner, index.owned.meaning
    if owned.orders[dim] is not None and not owned.uniform:
        if isinstance(meaning, Ranks) and meaning.order == owned.orders[dim]:
            return owner, ""
        return owner, ELSEWHERE
    if isinstance(meaning, Shuffle) and index.values.dim() == 1 and owner.shape[dim] == len(index.values):
        return owner, ""
    if owner.stride(dim) == 0 or owner.shape[dim] == 1:
        return owner, ""
    if index.constant and index.owned.source != "drawn":
        call.conditional |= index.of_this_batch
        return owner, ""
    if isinstance(meaning, Positions) and _agree(owner, dim, meaning.owners):
        return owner, ""
    return joined_over(owner, [dim], call.mixed).expand(owner.shape), ""


def _agree(owner: Tensor, dim: int, owners: Tensor) -> bool:
    """Whether each slice along a dimension belongs to the given example, or to none."""
    if owner.shape[dim] != len(owners):
        return False
    expected = owners.view([-1 if d == dim else 1 for d in range(owner.dim())])
    small = compact(owner)
    return bool(((small == expected) | (small == NONE)).all())


def _of_index(call: Call, index: Index) -> Tensor:
    """Return what the place of a number that is read depends on; of ranks, the owner of the place they are read for."""
    meaning = index.owned.meaning
    if isinstance(meaning, Ranks):
        return index.owned.owner.new_tensor(NONE) if meaning.owners is None else meaning.owners.to(torch.int32)
    return index.owned.owner


def _orders_of(index: Index, owner: Tensor, dim: int) -> tuple[Order, ...]:
    """Return the order of what is read at an index; a random order shows only where rows of several examples change places."""
    meaning = index.owned.meaning
    if isinstance(meaning, Shuffle) and owner.stride(dim) != 0:
        return (("shuffled", meaning.key),)
    return (None,) * index.values.dim() if isinstance(meaning, Ranks) else index.owned.orders


@owner_rule("index", "_unsafe_index")
def indexed(call: Call) -> Owned:
    """`x[i, :, j]`: index tensors are broadcast against one another."""
    value = call["self"]
    places = _places(call, call["indices"])
    return _looked_up(call, call.owned(value), places, call.results[0])


def _looked_up(call: Call, owned: Owned, places: list[Index | None], result: Tensor) -> Owned:
    owner = owned.owner
    for dim, index in enumerate(places):
        if index is not None:
            owner, why = readable(call, Owned(owner, owned.orders, owned.uniform), dim, index)
            if why:
                return call.all_mixed(result, why)
    indices = [p for p in places if p is not None]
    given = [
        (Owned(i.owned.owner, _orders_of(i, owned.owner, dim)), i.values.dim())
        for dim, i in enumerate(places)
        if i is not None
    ]
    orders, clash = orders_joined(call, given, _dim(indices))
    if clash:
        return call.all_mixed(result, "rows in an order that records decide meet rows in another order")
    read = torch.ops.aten.index(owner, [None if p is None else p.values for p in places])
    start = _start(places)
    of_places = call.together(*(_of_index(call, i) for i in indices))
    behind = read.dim() - start - _dim(indices)
    wide = of_places.reshape(*of_places.shape, *[1] * behind) if behind else of_places
    kept = [
        order
        for p, order in zip((*places, *[None] * (owner.dim() - len(places))), owned.orders, strict=True)
        if p is None
    ]
    all_orders = (*kept[:start], *orders, *kept[start:])
    meaning = owned.meaning if isinstance(owned.meaning, Positions) and len(indices) == 1 else None
    return Owned(call.together(read, wide).expand(result.shape), all_orders, meaning=meaning)


def _dim(indices: Sequence[Index]) -> int:
    return max((i.values.dim() for i in indices), default=0)


def _start(places: Sequence[Index | None]) -> int:
    """Return where the dimensions of the index tensors stand in the result: in place if they are adjacent, else first."""
    given = [k for k, p in enumerate(places) if p is not None]
    return given[0] if given == list(range(given[0], given[-1] + 1)) else 0


def _places(call: Call, indices: Sequence[Tensor | None]) -> list[Index | None]:
    """Return the indices by dimension; a mask stands for the positions at which it is true."""
    places: list[Index | None] = []
    for index in indices:
        if index is None:
            places.append(None)
        elif index.dtype in (torch.bool, torch.uint8):
            places += _positions(call, index)
        else:
            places.append(Index(index.detach().cpu().long(), call.owned(index)))
    return places


def _positions(call: Call, mask: Tensor) -> list[Index | None]:
    """Return the positions at which a mask is true, for each of its dimensions."""
    found = _nonzero(call, mask)
    where = mask.detach().cpu().nonzero()
    columns = found.meaning.meanings if isinstance(found.meaning, Columns) else [None] * mask.dim()
    return [
        Index(where[:, d], Owned(found.owner[:, d], found.orders[:1], meaning=columns[d])) for d in range(mask.dim())
    ]


@owner_rule("nonzero")
def nonzero(call: Call) -> Owned:
    """Positions of numbers that are not zero, in order: how many there are before one depends on all examples."""
    return _nonzero(call, call["self"])


def _nonzero(call: Call, mask: Tensor) -> Owned:
    owned, where = call.owned(mask), mask.detach().cpu().nonzero()
    varying = [d for d, stride in enumerate(owned.owner.stride()) if stride != 0 and mask.shape[d] > 1]
    values = compact(owned.owner)
    if owned.is_constant:
        return Owned(torch.tensor(NONE, dtype=torch.int32).expand(where.shape))
    if owned.ordered or bool((values < NONE).any()) or len(varying) > 1:
        everyone = call.all_mixed(where, "positions among rows of several examples")
        return Owned(everyone.owner, (("nonzero", call.keys.get(id(mask), id(mask))), None))
    if not varying:  # one example alone decides
        return Owned(values.reshape(-1)[:1].expand(where.shape), (("nonzero", call.keys.get(id(mask), id(mask))), None))
    owners = owned.owner.movedim(varying[0], 0).reshape(mask.shape[varying[0]], -1)[:, 0]
    rows = owners[where[:, varying[0]]]
    meaning = Columns(tuple(Positions(owners) if d == varying[0] else None for d in range(mask.dim())))
    return Owned(
        rows[:, None].expand(where.shape), (("nonzero", call.keys.get(id(mask), id(mask))), None), meaning=meaning
    )


@owner_rule("masked_select")
def masked(call: Call) -> Owned:
    """The numbers at which a mask is true."""
    value, mask = call["self"], call["mask"]
    if value.shape != mask.shape:
        everyone = call.all_mixed(call.results[0], "a mask of another shape")
        return Owned(everyone.owner, (("masked", call.keys[id(mask)]),))
    return _looked_up(call, call.owned(value), _positions(call, mask), call.results[0])


@owner_rule("index_select")
def selected(call: Call) -> Owned:
    """Slices at an index, `(m,)`, along a dimension."""
    value, dim = call["self"], call["dim"] % max(1, call["self"].dim())
    index = Index(call["index"].detach().cpu().long().reshape(-1), _flat(call, call["index"]))
    return _looked_up(call, call.owned(value), [*[None] * dim, index], call.results[0])


def _flat(call: Call, index: Tensor) -> Owned:
    owned = call.owned(index)
    return owned if index.dim() == 1 else Owned(owned.owner.reshape(1), (None,), meaning=owned.meaning)


@owner_rule("embedding")
def embedded(call: Call) -> Owned:
    """Rows of a table, which a trained table is the same for everyone."""
    ids = call["indices"]
    index = Index(ids.detach().cpu().long(), call.owned(ids))
    return _looked_up(call, call.owned(call["weight"]), [index], call.results[0])


@owner_rule("gather", "take_along_dim")
def gathered(call: Call) -> Owned:
    """`x.gather(dim, index)`: the other dimensions are read where the index stands."""
    value, index, result = call["self"], call.get("index", "indices"), call.results[0]
    if not value.dim():
        return Owned(call.together(call.owner(value), call.owner(index)).expand(result.shape))
    dim = call["dim"] % value.dim()
    place = Index(index.detach().cpu().long(), call.owned(index))
    owner, why = readable(call, call.owned(value), dim, place)
    others = [d for d in range(value.dim()) if d != dim]
    if why or any(call.owned(value).orders[d] != place.owned.orders[d] for d in others):
        return call.all_mixed(result, why or "rows in an order that records decide meet rows in another order")
    read = owner.gather(dim, place.values) if index.dim() else owner.reshape(-1)[:1]
    return Owned(call.together(read, place.owned.owner).expand(result.shape), place.owned.orders)


@owner_rule("take")
def taken(call: Call) -> Owned:
    """Numbers at an index into all of them."""
    value, index = call["self"], call["index"]
    place = Index(index.detach().cpu().long(), call.owned(index))
    if call.owned(value).ordered:
        return call.all_mixed(call.results[0], ELSEWHERE)
    flat = call.owner(value).reshape(-1)
    owner, _ = readable(call, Owned(flat), 0, place)
    return Owned(call.together(owner[place.values], place.owned.owner), place.owned.orders)


@owner_rule("_embedding_bag", "_embedding_bag_forward_only")
def bags(call: Call) -> list[Owned]:
    """Sums of rows of a table: bag k is made of the ids from offset k to the next."""
    ids, offsets = call["indices"], call["offsets"]
    if call.refuse_order(ids, offsets) or call.is_owned(call["weight"]) or call.is_owned(offsets):
        return [call.all_mixed(r, "bags of ids") for r in call.results]
    scales = call.get("per_sample_weights")
    own = call.together(call.owner(ids), *([] if scales is None else [call.owner(scales)]))
    starts = [*offsets.tolist(), len(ids)][: len(offsets) + (0 if call.get("include_last_offset") else 1)]
    bag = [joined_over(own[a:b], [0], call.mixed) for a, b in pairwise(starts)]
    owner = torch.cat([b.reshape(1) for b in bag]) if bag else own.new_full((0,), NONE)
    found = [Owned(owner[:, None].expand(call.results[0].shape))]
    return [*found, *(call.all_mixed(r) for r in call.results[1:])]


# -- writing ---------------------------------------------------------------------------------------------------------


@owner_rule("index_put", "_index_put_impl", "_unsafe_index_put")
def placed(call: Call) -> Owned:
    """`x[i, j] = v`, or `+= v`."""
    places = _places(call, call["indices"])
    return written(call, call["self"], places, call["values"], bool(call["accumulate"]))


@owner_rule("index_add", "index_copy", "index_fill", "index_reduce")
def added(call: Call) -> Owned:
    """Slices of a source written to, or added to, slices at an index along a dimension."""
    value, dim = call["self"], call["dim"] % max(1, call["self"].dim())
    index = Index(call["index"].detach().cpu().long().reshape(-1), _flat(call, call["index"]))
    source: Any = call.get("source", "value")
    return written(call, value, [*[None] * dim, index], source, call.name.startswith(("index_add", "index_reduce")))


def written(call: Call, target: Tensor, places: list[Index | None], source: object, adds: bool) -> Owned:
    """Return the map of a tensor after numbers were written to it at an index.

    Args:
        call: the operation.
        target: the tensor.
        places: by dimension.
        source: what was written, a tensor or a number.
        adds: whether it was added.
    """
    owned, result = call.owned(target), call.results[0]
    values = source if isinstance(source, Tensor) else None
    indices = [p for p in places if p is not None]
    if all(i.constant and i.owned.source != "drawn" for i in indices):
        return _written_to_places(call, owned, places, values, adds, result)
    if owned.ordered:
        return call.all_mixed(result, "rows in an order that records decide are written to")
    if len(indices) == 1 and isinstance(indices[0].owned.meaning, Ranks):
        return _back_in_order(call, owned, indices[0], indices[0].owned.meaning, values, len(places) == 1)
    if _is_inverse(target, indices, values, call):
        return _inverse(call, indices[0], result)
    rows = [(d, p) for d, p in enumerate(places) if p is not None and isinstance(p.owned.meaning, Positions)]
    if len(rows) == 1:
        ((dim, row),) = rows
        owners = row.owned.meaning.owners if isinstance(row.owned.meaning, Positions) else row.values
        if target.shape[dim] == len(owners) and _own_rows_only(call, row, indices, values, _start(places)):
            wide = owners.to(torch.int32).view([-1 if d == dim else 1 for d in range(target.dim())])
            return Owned(call.together(owned.owner, wide).expand(result.shape))
    return _written_anywhere(call, owned, places, values, result)


def _back_in_order(call: Call, owned: Owned, index: Index, ranks: Ranks, values: Tensor | None, first: bool) -> Owned:
    """Return the map of rows that were brought from their places into an order that records decided."""
    result = call.results[0]
    if ranks.owners is None:
        return call.all_mixed(result, ELSEWHERE)
    places = ranks.owners.to(torch.int32)
    of_values = call.owned(values) if values is not None else Owned(call.owner(None))
    wide = places.view(-1, *[1] * (result.dim() - 1))
    fits = of_values.owner.shape == result.shape and not of_values.ordered and first and owned.is_nobodys
    if not fits or not bool(((of_values.owner == wide) | (of_values.owner == NONE)).all()):
        return call.all_mixed(result, ELSEWHERE)
    rows = torch.empty_like(places)
    rows[index.values] = places
    owner = rows.view(-1, *[1] * (result.dim() - 1)).expand(result.shape)
    return Owned(owner, (ranks.order, *[None] * (result.dim() - 1)))


def _is_inverse(target: Tensor, indices: list[Index], values: Tensor | None, call: Call) -> bool:
    """Whether the places of sorted rows are noted for each row: `inverse[order] = arange(n)`."""
    (first,) = indices[0].owned.orders[:1] or (None,)
    sorted_ = isinstance(first, tuple) and first[0] == "sorted" and isinstance(indices[0].owned.meaning, Positions)
    return sorted_ and target.dim() == 1 and len(indices) == 1 and values is not None and not call.is_owned(values)


def _inverse(call: Call, index: Index, result: Tensor) -> Owned:
    assert isinstance(index.owned.meaning, Positions)
    everyone = call.all_mixed(result, "a place in an order that all examples decide")
    return Owned(everyone.owner, meaning=Ranks(index.owned.orders[0], index.owned.meaning.owners))


def _own_rows_only(call: Call, row: Index, indices: list[Index], values: Tensor | None, start: int) -> bool:
    """Whether all that is written to a row, and all that decides where in the row, belongs to the row's own example.

    Args:
        call: the operation.
        row: the positions of the rows.
        indices: the index of every dimension that has one.
        values: what is written, or None for a number.
        start: which dimension of the values the positions are along, once the values are broadcast.
    """
    owner = row.owned.owner
    same = all(bool(((i.owned.owner == owner) | (i.owned.owner == NONE)).all()) for i in indices)
    if same and values is not None and not values.numel():
        return True
    if values is None or not call.is_owned(values) or not same:
        return same and (values is None or call.owned(values).uniform or not values.dim())
    of_values = call.owned(values)
    if start or values.dim() < owner.dim():
        return False
    wide = owner.reshape(*owner.shape, *[1] * (values.dim() - owner.dim()))
    met = (of_values.owner == wide) | (of_values.owner == NONE)
    return bool(met.all()) and of_values.orders[: owner.dim()] == row.owned.orders


def _written_to_places(
    call: Call, owned: Owned, places: list[Index | None], values: Tensor | None, adds: bool, result: Tensor
) -> Owned:
    """Return the map after a write whose places no record decides."""
    of_values = call.owned(values) if values is not None else Owned(torch.tensor(NONE, dtype=torch.int32))
    if of_values.ordered or any(owned.orders[d] is not None for d, p in enumerate(places) if p is not None):
        return call.all_mixed(result, ELSEWHERE)
    at = [None if p is None else p.values for p in places]
    before = torch.ops.aten.index(owned.owner, at)
    new = call.together(before, of_values.owner).expand(before.shape) if adds else of_values.owner.expand(before.shape)
    indices = [p for p in places if p is not None]
    along = slice(_start(places), _start(places) + _dim(indices))
    if _changes(call.together(before, new), along):
        call.conditional |= any(p.of_this_batch for p in indices)
    if _changes(of_values.owner.expand(before.shape), along) and _repeats(places):
        return call.all_mixed(result, "several rows are written to one")
    after = owned.owner.clone(memory_format=torch.contiguous_format)
    after = torch.ops.aten.index_put(after, at, new.contiguous())
    return Owned(after, owned.orders)


def _changes(owner: Tensor, along: slice) -> bool:
    """Whether a map changes along some of these dimensions."""
    return any(size > 1 for size in compact(tidied(owner)).shape[along])


def _repeats(places: Sequence[Index | None]) -> bool:
    """Whether some place is named twice."""
    given = torch.broadcast_tensors(*(p.values for p in places if p is not None))
    flat = torch.stack([g.reshape(-1) for g in given], 1)
    return len(flat) > 1 and len(torch.unique(flat, dim=0)) < len(flat)


def _written_anywhere(
    call: Call, owned: Owned, places: list[Index | None], values: Tensor | None, result: Tensor
) -> Owned:
    """Return the map after a write whose places examples decide: anywhere along those dimensions."""
    fixed = [d for d, p in enumerate(places) if p is not None and p.constant]
    indices = [p for p in places if p is not None]
    simple = len(fixed) == 1 and len(indices) == len(places) and not _repeats([places[fixed[0]]])
    if owned.ordered or not simple or any(i.values.dim() != 1 for i in indices):
        return call.all_mixed(result, "written to places that several examples decide")
    of_values = call.owner(values)
    if of_values.dim() > 1:
        of_values = joined_over(of_values, range(1, of_values.dim()), call.mixed).reshape(-1)
    row = call.together(*(i.owned.owner for i in indices), of_values)
    rows = owned.owner.new_full((owned.owner.shape[fixed[0]],), NONE)
    at = indices_values(places, fixed[0])
    rows[at] = row.expand(at.shape)
    wide = rows.view([-1 if d == fixed[0] else 1 for d in range(owned.owner.dim())])
    return Owned(call.together(owned.owner, wide).expand(result.shape))


def indices_values(places: Sequence[Index | None], dim: int) -> Tensor:
    """Return the values of the index along a dimension."""
    index = places[dim]
    assert index is not None
    return index.values


@owner_rule("scatter", "scatter_add", "scatter_reduce")
def scattered(call: Call) -> Owned:
    """`x.scatter(dim, index, src)`: each number goes somewhere along a dimension, and stays in place in the others."""
    target, index, result = call["self"], call["index"], call.results[0]
    source = call.get("src", "value")
    dim = call["dim"] % max(1, target.dim())
    of_source = (
        call.owner(source)[tuple(slice(s) for s in index.shape)]
        if isinstance(source, Tensor) and source.dim()
        else call.owner(None)
    )
    if call.refuse_order(target, index, source if isinstance(source, Tensor) else None):
        same = (
            call.owned(index).orders
            if all(s is None or d != dim for d, s in enumerate(call.owned(index).orders))
            else None
        )
        if same is None or call.owned(target).orders != same:
            return _scattered_rows(call, target, index, of_source, dim)
    both = call.together(call.owner(index), of_source)
    place = call.owned(index)
    if isinstance(place.meaning, Positions) and call.owned(target).orders == (None,) * target.dim():
        return _scattered_rows(call, target, index, of_source, dim)
    along = joined_over(both, [dim], call.mixed)
    fixed = place.is_constant and place.source != "drawn"
    if fixed and bool((compact(along) == call.mixed).any()) and _each_once(index, dim):
        call.conditional |= not isinstance(place.meaning, RowNumbers)
        return _scattered_to_places(call, target, index, of_source, dim)
    wide = [s if s == 1 else t for s, t in zip(along.shape, target.shape, strict=True)]
    shape = [1 if d == dim else t for d, t in enumerate(target.shape)]
    del wide
    spread = torch.full(shape, NONE, dtype=torch.int32)
    spread[tuple(slice(s) for s in along.shape)] = along
    return Owned(call.together(call.owner(target), spread).expand(result.shape), call.owned(target).orders)


def _each_once(index: Tensor, dim: int) -> bool:
    """Whether no place along a dimension is named twice."""
    ordered = index.detach().cpu().sort(dim).values
    return index.shape[dim] < 2 or bool((ordered.diff(dim=dim) != 0).all())


def _scattered_to_places(call: Call, target: Tensor, index: Tensor, of_source: Tensor, dim: int) -> Owned:
    """Return the map after numbers went to places that no record decides, one to each."""
    at, before = index.detach().cpu().long(), call.owner(target)
    new = of_source.expand(index.shape)
    if call.name != "scatter" or call.get("reduce") is not None:
        new = call.together(new, before.gather(dim, at)).expand(index.shape)
    return Owned(before.clone(memory_format=torch.contiguous_format).scatter(dim, at, new.contiguous()))


def _scattered_rows(call: Call, target: Tensor, index: Tensor, of_source: Tensor, dim: int) -> Owned:
    """Return the map after numbers went to positions of rows that their own examples own."""
    place, owned, result = call.owned(index), call.owned(target), call.results[0]
    meaning = place.meaning
    own = isinstance(meaning, Positions) and not owned.ordered and target.shape[dim] == len(meaning.owners)
    if not own or not bool(((of_source == place.owner) | (of_source == NONE)).all()):
        return call.all_mixed(result, "written to places that several examples decide")
    assert isinstance(meaning, Positions)
    rows = meaning.owners.to(torch.int32).view([-1 if d == dim else 1 for d in range(target.dim())])
    return Owned(call.together(owned.owner, rows).expand(result.shape))


@owner_rule("embedding_dense_backward", "embedding_backward")
def embedding_backward(call: Call) -> Owned:
    """The gradient of a whole table."""
    return call.all_mixed(call.results[0])
