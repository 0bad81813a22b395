"""Where Python looks at values that depend on examples, and decides by them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dplit.grads.ownership.blame import Place, is_own, place
from dplit.grads.tape.constants import READS_VALUES
from dplit.grads.torch_calls import property_getters, tensors
from dplit.grads.types import Args, Kwargs, Result, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.ownership.ownership import Ownership

READS_VALUE = frozenset({"_local_scalar_dense", "equal", "item", "is_nonzero"})
"""Operations that give Python a number."""

HANDS_OUT: dict[TorchFunction, str] = {
    getattr(Tensor, name): name for name in ("tolist", "numpy", "__array__", "__dlpack__")
}
"""Methods that give Python all numbers of a tensor without an operation of torch."""

SIZES: dict[TorchFunction, str] = {
    **dict.fromkeys(property_getters("shape"), "shape"),
    **{getattr(Tensor, name): name for name in ("size", "__len__", "numel", "nelement")},
}
"""Methods that give Python the size of a tensor."""


class Read(NamedTuple):
    """Python looked at a value that depends on examples."""

    place: Place
    operation: str

    def __str__(self) -> str:
        return f"{self.operation} at {self.place}"


class FunctionReads(TorchFunctionMode):
    """Notes what Python is handed above the operations that `Ownership` sees."""

    def __init__(self, ownership: Ownership) -> None:
        super().__init__()
        self.ownership = ownership
        self._calls: list[tuple[TorchFunction, Args, Kwargs]] = []

    def __torch_function__(
        self, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        """Carry a function out, and note it if it hands out values."""
        kwargs = kwargs or {}
        self._calls.append((func, args, kwargs))
        try:
            result = func(*args, **kwargs)
        finally:
            self._calls.pop()
        if func in HANDS_OUT or func in SIZES:
            self._note_given(func, tensors(args, kwargs))
        if self.ownership.python_data and func in READS_VALUES and isinstance(result, Tensor):
            self.ownership.own_python_data(result)
        return result

    def note(self, operation: str) -> None:
        """Note that a number was read, unless by a function that only checks it."""
        if not (self._calls and _only_checks(*self._calls[-1])):
            self.ownership.reads.append(Read(place(), operation))

    def _note_given(self, func: TorchFunction, given: list[Tensor]) -> None:
        for value in given:
            owned = self.ownership.of(value)
            if (owned.ordered or (func in HANDS_OUT and not owned.is_constant)) and not is_own():
                self.ownership.reads.append(Read(place(), HANDS_OUT.get(func) or SIZES[func]))


def _only_checks(func: TorchFunction, args: Args, kwargs: Kwargs) -> bool:
    """Whether a function of torch looks at values to refuse some, and for nothing else."""
    classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
    return func is torch.nn.functional.one_hot and classes != -1
