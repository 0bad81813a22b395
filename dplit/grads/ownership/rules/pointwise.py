"""Operations that act number by number, and those that only copy or convert."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from dplit.grads.ownership import registry
from dplit.grads.ownership.call import Call, orders_joined
from dplit.grads.ownership.owner_map import NONE, Order, Owned, Positions, compact
from dplit.grads.ownership.registry import owner_rule


def broadcast(call: Call) -> Owned:
    """A number of the result depends on what the numbers it is computed from depend on, whatever their values."""
    given = [(call.owned(v), v.dim()) for v in call.tensors()]
    shape = call.results[0].shape
    owner = call.together(*(owned.owner for owned, _ in given)).expand(shape)
    orders, clash = orders_joined(call, given, len(shape))
    if clash:
        return met(call, given, owner, orders)
    uniform = any(owned.uniform for owned, _ in given) and all(owned.uniform or not dims for owned, dims in given)
    return Owned(owner, orders, uniform and registry.is_same_for_all(call.name), _divided(call))


def met(call: Call, given: list[tuple[Owned, int]], owner: Tensor, orders: tuple[Order, ...]) -> Owned:
    """Return the map of numbers whose rows meet in different orders: each must meet rows of its own example, in these records.

    Numbers of no example are not met, because which of them a row meets is decided by where others' rows are.
    """
    wide = [owned for owned, dims in given if dims and not owned.uniform]
    apart = [bool((compact(owned.owner) == NONE).any()) for owned in wide]
    if any(apart) or bool((compact(owner) < NONE).any()):
        return call.all_mixed(call.results[0], "rows in an order that records decide meet rows in another order")
    call.conditional = True
    return Owned(owner, (None,) * len(orders))


def _divided(call: Call) -> Positions | None:
    """Return what whole parts of positions stand for: `positions // k` are of runs of k rows, if each run is one example's."""
    by = call.get("other")
    floors = call.name == "floor_divide" or call.get("rounding_mode") == "floor"
    given = call.get("self")
    meaning = call.owned(given).meaning if floors and isinstance(given, Tensor) else None
    whole = isinstance(by, int) or (isinstance(by, Tensor) and not by.dim() and not by.is_floating_point())
    k = int(by) if whole and not call.is_owned(by) else 0
    if not isinstance(meaning, Positions) or k < 1 or len(meaning.owners) % k:
        return None
    runs = meaning.owners.view(-1, k)
    return Positions(runs[:, 0].contiguous()) if bool((runs == runs[:, :1]).all()) else None


registry.POINTWISE = broadcast

owner_rule(
    *(
        "native_dropout",
        "dropout",
        "masked_fill",
        "clamp_max",
        "clamp_min",
        "hypot",
        "floor_divide",
        "remainder",
        "fmod",
    ),
    *(
        "native_dropout_backward",
        "gelu_backward",
        "silu_backward",
        "mish_backward",
        "elu_backward",
        "hardtanh_backward",
    ),
    *("sigmoid_backward", "tanh_backward", "threshold_backward", "leaky_relu_backward", "softplus_backward"),
    *(
        "hardswish_backward",
        "hardsigmoid_backward",
        "softshrink_backward",
        "hardshrink_backward",
        "log_sigmoid_backward",
    ),
    *(
        "_prelu_kernel",
        "bernoulli",
        "poisson",
        "isclose",
        "_masked_scale",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "heaviside",
        "copysign",
        "rsub",
        "hardswish",
        "rrelu_with_noise",
        "log_sigmoid_forward",
    ),
    *("_fused_dropout", "complex", "polar", "lerp", "addcmul", "addcdiv", "where"),
    *("mse_loss_backward", "smooth_l1_loss_backward", "huber_loss_backward", "binary_cross_entropy_backward"),
    *("triu", "tril", "logit_backward", "_conj_physical", "nan_to_num", "angle"),
    *("add", "sub", "mul", "div", "pow", "real", "imag", "soft_margin_loss_backward"),
)(broadcast)


@owner_rule(
    *("clone", "_to_copy", "contiguous", "lift_fresh_copy", "lift", "pin_memory", "positive"),
    *("resolve_conj", "resolve_neg", "_pin_memory", "detach_copy", "alias_copy", "to"),
)
def copied(call: Call) -> Owned:
    """The same numbers in other memory, or of another type."""
    return replace(call.owned(next(call.tensors())), uniform=False)


@owner_rule("copy")
def overwritten(call: Call) -> Owned:
    """`a.copy_(b)`: what a was before is gone."""
    source = call.owned(call["src"])
    target = call["self"]
    missing = (None,) * (target.dim() - source.owner.dim())
    return Owned(source.owner.expand(target.shape), (*missing, *source.orders))


@owner_rule("fill", "zero")
def filled(call: Call) -> Owned:
    """All numbers become one."""
    value, target = call.get("value"), call.results[0]
    owned = call.owned(call["self"])
    owner = call.owner(value) if call.is_owned(value) else call.owner(None)
    return Owned(owner.expand(target.shape), owned.orders, uniform=True)
