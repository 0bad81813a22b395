"""Operations whose results depend on no data: constants and random numbers, perhaps as many as a tensor has."""

from __future__ import annotations

from torch import Tensor

from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import Owned, constant
from dplit.grads.ownership.registry import DRAWS, MAKES_CONSTANTS, owner_rule

MAKES_CONSTANTS |= {
    "zeros",
    "ones",
    "full",
    "scalar_tensor",
    "new_zeros",
    "new_ones",
    "new_full",
    "zeros_like",
    "ones_like",
}
MAKES_CONSTANTS |= {"full_like", "empty", "new_empty", "empty_like", "_efficientzerotensor"}


@owner_rule(*MAKES_CONSTANTS)
def equal(call: Call) -> Owned:
    """All numbers are the same."""
    like = call.get("self")
    shape = call.results[0].shape
    value = call.get("fill_value")
    owner = call.owner(value) if call.is_owned(value) else call.owner(None)
    orders = call.owned(like).orders if like is not None and like.shape == shape else ()
    return Owned(owner.expand(shape), orders, uniform=True, source="same")


DRAWS |= {
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "randint_like",
    "uniform",
    "normal",
    "random",
}
DRAWS |= {"exponential", "geometric", "cauchy", "log_normal", "bernoulli", "multinomial", "poisson", "native_dropout"}


@owner_rule(
    *("rand_like", "randn_like", "randint_like", "uniform", "normal", "exponential", "random", "geometric", "cauchy"),
    "log_normal",
)
def drawn(call: Call) -> Owned:
    """Numbers that are drawn anew. In rows whose order records decide, they could as well have been drawn in another order."""
    like, result = call.get("self", "mean"), call.results[0]
    if not isinstance(like, Tensor):
        return constant(result.shape, source="drawn")
    parameters = [v for v in call.tensors() if v is not result] if call.name == "normal" else []
    if parameters:
        return Owned(call.together(*(call.owner(v) for v in parameters)).expand(result.shape), source="drawn")
    orders = call.owned(like).orders if like.shape == result.shape else ()
    return Owned(constant(result.shape).owner, orders, source="drawn")
