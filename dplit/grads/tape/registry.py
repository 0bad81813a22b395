"""Where operations find their rule. A file in `dplit/grads/rules` adds its own by being there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from dplit.grads.factors.base import FactoredGrad

if TYPE_CHECKING:
    from dplit.grads.tape.tracked import Derived, Source

Rule = Callable[..., Any]
"""`rule(tape, *args, **kwargs)`: does what the operation does and records each tracked parameter's use in backward."""

VjpRule = Callable[["Derived", FactoredGrad], "FactoredGrad | Iterable[tuple[Source, FactoredGrad]] | None"]
"""`vjp_rule(derived, use)`: the use of its parent that a use of a tensor derived by the operation amounts to; with several
parents, each of them with its use; None where it knows none."""

RULES: dict[Any, Rule] = {}
VJP_RULES: dict[Any, VjpRule] = {}
ANYWHERE: set[Any] = set()
"""Operations whose rule takes examples that are not outermost."""
ALWAYS: set[Any] = set()
"""Operations whose rule is asked even where no data is among the arguments."""

_F = TypeVar("_F", bound=Callable[..., Any])


def rule(*operations: Any, always: bool = False, anywhere: bool = False) -> Callable[[_F], _F]:
    """Register a function as the rule of these torch functions.

    Args:
        operations: torch functions.
        always: it is asked also where only constants meet parameters.
        anywhere: it knows what to do with examples that are not outermost; other rules never see such activations.
    """

    def register(function: _F) -> _F:
        RULES.update(dict.fromkeys(operations, function))
        ALWAYS.update(operations if always else ())
        ANYWHERE.update(operations if anywhere else ())
        return function

    return register


def vjp_rule(*operations: Any) -> Callable[[_F], _F]:
    """Register how uses travel back through these operations when they are applied to a parameter alone."""

    def register(function: _F) -> _F:
        VJP_RULES.update(dict.fromkeys(operations, function))
        return function

    return register


def load() -> None:
    """Import every file of `dplit.grads.rules`."""
    package = import_module("dplit.grads.rules")
    for module in iter_modules(package.__path__):
        import_module(f"dplit.grads.rules.{module.name}")


def reads(value: Tensor | None) -> str:
    """Return a tensor as error messages show it."""
    return "None" if value is None else f"{tuple(value.shape)}"
