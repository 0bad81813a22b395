"""Operations in which a number of the result depends on all numbers along some dimensions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import Counts, Order, Owned, joined_over, keeps_number
from dplit.grads.ownership.registry import owner_rule


def dims_of(call: Call, value: Tensor) -> list[int]:
    """Return the dimensions that an operation works along; all where it names none."""
    dim: Any = call.get("dim", "dims")
    if dim is None or dim == []:
        return list(range(value.dim()))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return [d % max(1, value.dim()) for d in dims]


def order_decides(owned: Owned, dims: list[int]) -> bool:
    """Whether records decide the order along one of these dimensions."""
    return any(owned.orders[d] is not None for d in dims if d < len(owned.orders))


def number_decided(owned: Owned, dims: list[int]) -> bool:
    """Whether records decide how many rows there are along one of these dimensions, which a sum over them tells."""
    return any(not keeps_number(owned.orders[d]) for d in dims if d < len(owned.orders))


@owner_rule(
    *("sum", "mean", "amax", "amin", "max", "min", "std", "var", "logsumexp", "prod", "norm", "median", "nanmedian"),
    *("any", "all", "argmax", "argmin", "nansum", "nanmean", "mode", "kthvalue", "std_mean", "var_mean", "aminmax"),
    *("linalg_vector_norm", "count_nonzero", "frobenius_norm", "trace", "quantile"),
)
def reduced(call: Call) -> list[Owned]:
    """Sums, means, maxima and the like. A sum over rows does not see their order."""
    others = [v for v in call.tensors() if v is not call["self"]]
    if others and call.is_owned(others[0]):
        from dplit.grads.ownership.rules.pointwise import broadcast

        return [broadcast(call)]
    if others:
        return [Owned(call.together(call.owner(call["self"]), *(call.owner(v) for v in others)))]
    value = call["self"]
    owned, dims = call.owned(value), dims_of(call, value)
    if order_decides(owned, dims) and (call.name in _TELLS_PLACE or number_decided(owned, dims)):
        return [call.all_mixed(result, "records decide the order along its dimension") for result in call.results]
    return [_reduced_to(call, owned, dims, result) for result in call.results]


_TELLS_PLACE = frozenset({"argmax", "argmin", "max", "min", "median", "nanmedian", "mode", "kthvalue"})
"""Reductions that may say which place a number had."""


def _reduced_to(call: Call, owned: Owned, dims: list[int], result: Tensor) -> Owned:
    keeps = result.dim() == owned.owner.dim()
    owner = joined_over(owned.owner, dims, call.mixed, keepdim=keeps)
    orders: tuple[Order, ...] = tuple(
        None if d in dims else order for d, order in enumerate(owned.orders) if keeps or d not in dims
    )
    return Owned(owner, orders)


@owner_rule(
    *(
        "_softmax",
        "_log_softmax",
        "_safe_softmax",
        "softmax",
        "log_softmax",
        "cumsum",
        "cumprod",
        "logcumsumexp",
        "cummax",
    ),
    *("cummin", "_softmax_backward_data", "_log_softmax_backward_data", "renorm"),
    *("glu", "glu_backward", "glu_jvp", "diff", "_sparse_softmax"),
)
def along(call: Call) -> list[Owned]:
    """Each number depends on all numbers along a dimension: normalised, accumulated or sorted along it."""
    values = list(call.tensors())
    dim = call.get("dim", default=0 if call.name == "renorm" else -1)
    subject = values[0]
    if not subject.dim():
        return [Owned(call.together(*(call.owner(v) for v in values)))] * len(call.results)
    dim %= subject.dim()
    if call.name == "renorm":
        return [_apart_from(call, subject, dim)]
    owned = [call.owned(v) for v in values]
    told = order_decides if call.name not in _SYMMETRIC else number_decided
    if any(told(o, [dim]) for o in owned):
        return [call.all_mixed(r, "records decide the order along its dimension") for r in call.results]
    kept = [joined_over(o.owner, [dim] if o.owner.dim() == subject.dim() else [], call.mixed) for o in owned]
    orders = tuple(None if d == dim and call.name not in _SYMMETRIC else o for d, o in enumerate(owned[0].orders))
    wide = call.together(*kept)
    meaning = owned[0].meaning if isinstance(owned[0].meaning, Counts) and call.name == "cumsum" else None
    return [replace(_wide_as(call, wide, orders, r), meaning=meaning) for r in call.results]


_SYMMETRIC = frozenset(
    {
        "_softmax",
        "_log_softmax",
        "_safe_softmax",
        "softmax",
        "log_softmax",
        "_softmax_backward_data",
        "_log_softmax_backward_data",
    }
)
"""What does not see the order along its dimension."""


def _wide_as(call: Call, wide: Tensor, orders: tuple[Order, ...], result: Tensor) -> Owned:
    small = [1 if s != r else s for s, r in zip(wide.shape, result.shape, strict=True)]
    narrow = wide
    for d, size in enumerate(small):
        if size == 1 and wide.shape[d] != 1:
            narrow = (
                narrow.narrow(d, 0, 1)
                if wide.shape[d]
                else narrow.new_full((*narrow.shape[:d], 1, *narrow.shape[d + 1 :]), -1)
            )
    return Owned(narrow.expand(result.shape), orders)


@owner_rule("_weight_norm_interface")
def scaled_slices(call: Call) -> list[Owned]:
    """Each slice of the weight along a dimension is divided by its own norm, and multiplied by its own length."""
    value, dim = call["v"], call["dim"] % call["v"].dim()
    if call.refuse_order(*call.tensors()):
        return [call.all_mixed(r, "records decide the order of what is normalised") for r in call.results]
    norms = joined_over(call.owner(value), [d for d in range(value.dim()) if d != dim], call.mixed)
    return [Owned(call.together(norms, call.owner(call["g"])).expand(call.results[0].shape)), Owned(norms)]


def _apart_from(call: Call, value: Tensor, dim: int) -> Owned:
    """`renorm`: each slice along a dimension is scaled by its own norm."""
    owned = call.owned(value)
    dims = [d for d in range(value.dim()) if d != dim]
    return Owned(joined_over(owned.owner, dims, call.mixed).expand(value.shape), owned.orders)
