"""Functions of `torch` that are written in Python, run so that the tape sees the operations inside them."""

from __future__ import annotations

from functools import cache
from types import FunctionType

from dplit.grads.types import TorchFunction

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


def _not_overridden(*args: object) -> bool:
    return False
