"""Functions of `torch` that are written in Python: carried out so that the operations inside are seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

_DISPATCHERS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@cache
def without_override_check(operation: Any) -> Callable[..., Any] | None:
    """Return a function that does the same without handing itself over to an active mode, or None for a built-in.

    Torch's Python functions begin by asking whether somebody overrides them as a whole; in the copy nobody does, so
    what they call is overridden one by one.
    """
    if not isinstance(operation, FunctionType) or not operation.__module__.startswith("torch."):
        return None
    known = {name: _nobody for name in _DISPATCHERS if name in operation.__globals__}
    if not known:
        return None
    copy = FunctionType(
        operation.__code__,
        {**operation.__globals__, **known},
        operation.__name__,
        operation.__defaults__,
        operation.__closure__,
    )
    copy.__kwdefaults__ = operation.__kwdefaults__
    return copy


def _nobody(*args: Any) -> bool:
    return False
