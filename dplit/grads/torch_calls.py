"""How torch calls a function: the tensors among its arguments, and the functions behind properties."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from dplit.grads.types import Kwargs, TorchFunction


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


def is_in_place(operation: TorchFunction) -> bool:
    """Whether a function writes to its first argument, by its name: `add_`, `+=` or `x[...] = `."""
    name: str = getattr(operation, "__name__", "")
    return name in _WRITES or (name.endswith("_") and not name.endswith("__"))


_WRITES = frozenset(
    f"__{name}__"
    for name in (
        "setitem",
        *(f"i{op}" for op in ["add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"]),
    )
)
