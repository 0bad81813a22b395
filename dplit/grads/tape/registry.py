"""Where the tape finds the rule of an operation. A file in `dplit/grads/rules` adds its rules by being there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from dplit.discovery import modules
from dplit.grads.factors.base import FactoredGrad
from dplit.grads.types import TorchFunction

if TYPE_CHECKING:
    from dplit.grads.tape.tracked import DerivedTensor, Tracked

Rule = TorchFunction
"""`rule(tape, *args, **kwargs)` returns what the operation returns, and in backward records the gradient of each tracked
tensor among its arguments."""

PulledBack = FactoredGrad | Iterable[tuple["Tracked", FactoredGrad]] | None
"""The gradient of the one parent; or of several parents, each with its own; or None where the rule does not know it."""

VjpRule = Callable[["DerivedTensor", FactoredGrad], PulledBack]
"""`vjp_rule(derived, grad)`: from the gradient of a derived tensor d = f(p) to the gradient of its parent p that it amounts to
(a vector-Jacobian product), kept in factors."""

RULES: dict[TorchFunction, Rule] = {}
VJP_RULES: dict[TorchFunction, VjpRule] = {}
TAKES_ANY_BATCH_AXIS: set[TorchFunction] = set()
"""Operations whose rule handles activations that do not have the examples outermost."""
TAKES_NO_DATA: set[TorchFunction] = set()
"""Operations whose rule is called even where no data is among the arguments."""

_F = TypeVar("_F", bound=TorchFunction)


def rule(*operations: TorchFunction, without_data: bool = False, any_batch_axis: bool = False) -> Callable[[_F], _F]:
    """Register a function as the rule of these torch functions.

    Args:
        operations: torch functions.
        without_data: call it also where only constants meet tracked tensors, in place of deriving a tensor.
        any_batch_axis: it handles activations that do not have the examples outermost; other rules never get them.
    """

    def register(function: _F) -> _F:
        RULES.update(dict.fromkeys(operations, function))
        TAKES_NO_DATA.update(operations if without_data else ())
        TAKES_ANY_BATCH_AXIS.update(operations if any_batch_axis else ())
        return function

    return register


def vjp_rule(*operations: TorchFunction) -> Callable[[_F], _F]:
    """Register how gradients are pulled back through these operations where they are applied to tracked tensors alone."""

    def register(function: _F) -> _F:
        VJP_RULES.update(dict.fromkeys(operations, function))
        return function

    return register


def load() -> None:
    """Import every file of `dplit.grads.rules`."""
    modules("dplit.grads.rules", import_module("dplit.grads.rules").__path__)
