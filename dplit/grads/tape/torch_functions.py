"""How torch calls its functions: their tensors, the getters of properties, and functions that are written in Python."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from types import FunctionType

from torch import Tensor

from dplit.grads.types import Kwargs, TorchFunction

_DISPATCHERS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@cache
def without_override_check(operation: TorchFunction) -> TorchFunction | None:
    """Return a copy of a function that does not hand itself over to an active mode, or None if it is built in.

    Torch's Python functions begin by asking whether a mode overrides them as a whole. In the copy the answer is always no,
    so that the mode sees the operations that the function calls, one by one.
    """
    if not isinstance(operation, FunctionType) or not operation.__module__.startswith("torch."):
        return None
    dispatchers = {name: _not_overridden for name in _DISPATCHERS if name in operation.__globals__}
    if not dispatchers:
        return None
    copy = FunctionType(
        operation.__code__,
        {**operation.__globals__, **dispatchers},
        operation.__name__,
        operation.__defaults__,
        operation.__closure__,
    )
    copy.__kwdefaults__ = operation.__kwdefaults__
    return copy


def property_getters(*names: str) -> tuple[TorchFunction, ...]:
    """Return what a mode receives when properties of a tensor, such as `T` and `mT`, are read."""
    return tuple(getattr(Tensor, name).__get__ for name in names)


def tensors(args: Iterable[object], kwargs: Kwargs) -> list[Tensor]:
    """Return the tensors among arguments, also those inside lists, tuples and dictionaries."""
    collected: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            collected.append(value)
        elif isinstance(value, list | tuple):
            collected += tensors(value, {})
        elif isinstance(value, dict):
            collected += tensors((), value)
    return collected


def _not_overridden(*args: object) -> bool:
    return False
