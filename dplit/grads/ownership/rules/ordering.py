"""Sorting: along an example's own numbers, or of all examples, whose rows are then followed in the order that they decided."""

from __future__ import annotations

from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import NONE, Counts, Owned, Positions, Ranks, SortedKeys, compact, joined_over
from dplit.grads.ownership.registry import owner_rule


@owner_rule("sort", "argsort", "topk", "msort")
def ordered(call: Call) -> list[Owned]:
    """Values and their places."""
    value = call["self"]
    dim = (call.get("dim", default=-1) if call.name != "msort" else 0) % max(1, value.dim())
    owned = call.owned(value)
    if not value.dim():
        return [owned.plain()] * len(call.results)
    within = joined_over(owned.owner, [dim], call.mixed)
    if owned.orders[dim] is None and not bool((compact(within) == call.mixed).any()):
        return [Owned(within.expand(r.shape), owned.orders) for r in call.results]
    if isinstance(owned.meaning, Positions) and call.name in ("argsort", "sort") and value.dim() == 1 and owned.ordered:
        return [_inverse(call, owned, r) for r in call.results]
    if value.dim() != 1 or owned.ordered or bool((compact(owned.owner) < NONE).any()):
        return [call.all_mixed(r, "sorted across examples") for r in call.results]
    if call.results[0].shape != value.shape:
        return [call.all_mixed(r, "rows are dropped because of other examples' rows") for r in call.results]
    return _sorted_rows(call, value, owned)


def _sorted_rows(call: Call, value: Tensor, owned: Owned) -> list[Owned]:
    """Return the maps of a vector's numbers and places in the order that all of them decided."""
    places = call.results[-1]
    order = ("sorted", call.keys[id(value)])
    owner = owned.owner[places.cpu()]
    values = [Owned(owner, (order,), meaning=SortedKeys(call.keys[id(value)]))] if len(call.results) > 1 else []
    return [*values, Owned(owner, (order,), meaning=Positions(owned.owner))]


def _inverse(call: Call, owned: Owned, result: Tensor) -> Owned:
    """Return the map of the places that bring sorted rows back: where a row went is decided by all examples."""
    assert isinstance(owned.meaning, Positions)
    everyone = call.all_mixed(result, "a place in an order that all examples decide")
    return Owned(everyone.owner, meaning=Ranks(owned.orders[0], owned.meaning.owners))


@owner_rule("histc", "bincount")
def counted(call: Call) -> Owned:
    """How many rows have each key."""
    found, keys = call.all_mixed(call.results[0]), call.owned(call["self"])
    if isinstance(keys.meaning, SortedKeys):
        return Owned(found.owner, meaning=Counts(keys.meaning.keys, keys.plain()))
    return Owned(found.owner, meaning=Counts(call.keys[id(call["self"])]))


@owner_rule("searchsorted", "bucketize")
def found_among(call: Call) -> Owned:
    """Where values stand among sorted numbers; of places among totals by key, the key of the row in each place."""
    numbers, values = call.get("sorted_sequence", "boundaries"), call["self"]
    meaning = call.owned(numbers).meaning if isinstance(values, Tensor) else None
    if (
        isinstance(meaning, Counts)
        and meaning.rows is not None
        and not call.is_owned(values)
        and (values.shape == meaning.rows.owner.shape)
    ):
        return meaning.rows
    if not isinstance(values, Tensor) or call.refuse_order(numbers):
        return call.all_mixed(call.results[0], "sought among rows in an order that records decide")
    along = joined_over(call.owner(numbers), [-1], call.mixed)
    along = along.reshape(()) if numbers.dim() == 1 else along
    return Owned(call.together(along, call.owner(values)).expand(call.results[0].shape), call.owned(values).orders)


@owner_rule("isin")
def among(call: Call) -> Owned:
    """Whether each number is one of some others."""
    numbers, others = call.get("elements", "element"), call.get("test_elements", "test_element")
    owner = call.owner(numbers) if isinstance(numbers, Tensor) else call.owner(None)
    of_others = (
        joined_over(call.owner(others), range(others.dim()), call.mixed, keepdim=False)
        if isinstance(others, Tensor)
        else call.owner(None)
    )
    orders = call.owned(numbers).orders if isinstance(numbers, Tensor) else ()
    return Owned(call.together(owner, of_others).expand(call.results[0].shape), orders)


@owner_rule("_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive")
def distinct(call: Call) -> list[Owned]:
    """The values that occur, which of them each number is, and how often each occurs: that depends on what else there is."""
    found = [call.all_mixed(r) for r in call.results]
    return [
        Owned(f.owner, (("distinct", call.keys[id(call["self"])]), *[None] * (r.dim() - 1)) if k != 1 else ())
        for k, (f, r) in enumerate(zip(found, call.results, strict=True))
    ]


@owner_rule("repeat_interleave")
def repeated(call: Call) -> Owned:
    """How often each position is repeated: as many rows as all of them say."""
    found = call.all_mixed(call.results[0])
    return Owned(found.owner, (("repeated", call.keys[id(next(call.tensors()))]),))
