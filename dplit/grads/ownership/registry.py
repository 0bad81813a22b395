"""Where ownership finds the rule of an operation. A file in `dplit/grads/ownership/rules` adds its rules by being there."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from dplit.discovery import modules
from dplit.grads.ownership.call import Call
from dplit.grads.ownership.owner_map import Owned

OwnerRule = Callable[[Call], Owned | list[Owned]]
"""From an operation to the owner maps of its results, in order; one for all if they have the same shape.

The rule looks at shapes and settings, and at values only of indices; never at the values of other data.
"""

RULES: dict[str, OwnerRule] = {}
"""By the operation's name without its overload; in-place operations have the rule of those that are not."""


def owner_rule(*names: str) -> Callable[[OwnerRule], OwnerRule]:
    """Register a function as the rule of these operations."""

    def register(function: OwnerRule) -> OwnerRule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


Written = Callable[[Call], dict[str, Owned]]
"""From an operation to the maps, by name, of arguments that it has written to."""

WRITTEN: dict[str, Written] = {}
"""For operations that write to arguments which they do not return."""


def written_by(*names: str) -> Callable[[Written], Written]:
    """Register a function that says what these operations write to."""

    def register(function: Written) -> Written:
        WRITTEN.update(dict.fromkeys(names, function))
        return function

    return register


def rule_of(name: str) -> OwnerRule | None:
    """Return the rule of an operation, or None if it has none."""
    return RULES.get(name) or RULES.get(name.removesuffix("_")) or None


def is_same_for_all(name: str) -> bool:
    """Whether an operation number by number gives equal numbers for equal ones: neither draws nor looks at places."""
    return name.removesuffix("_") not in DRAWS and name.removesuffix("_") not in ("triu", "tril", "rrelu_with_noise")


def load() -> None:
    """Import every file of `dplit.grads.ownership.rules`."""
    modules("dplit.grads.ownership.rules", import_module("dplit.grads.ownership.rules").__path__)


POINTWISE: OwnerRule
"""The rule of operations that torch marks as acting number by number."""

MAKES_CONSTANTS: set[str] = set()
"""Operations without data whose results are noted, because all their numbers are equal."""

DRAWS: set[str] = set()
"""Operations whose results are random numbers."""
