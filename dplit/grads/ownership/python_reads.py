"""Where Python looks at values that depend on examples, and decides by them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from dplit.grads.ownership.blame import Place, is_own, place
from dplit.grads.ownership.owner_map import keeps_number
from dplit.grads.tape.constants import READS_VALUES
from dplit.grads.torch_calls import property_getters, tensors
from dplit.grads.types import Args, Kwargs, Result, TorchFunction

if TYPE_CHECKING:
    from dplit.grads.ownership.ownership import Ownership

READS_VALUE = frozenset({"_local_scalar_dense", "equal", "allclose", "item", "is_nonzero"})
"""Operations that give Python a number."""

HANDS_OUT: dict[TorchFunction, str] = {
    getattr(Tensor, name): name
    for name in (
        *("tolist", "numpy", "__array__", "__dlpack__", "__reduce_ex__", "__repr__", "__format__"),
        *("untyped_storage", "storage", "_typed_storage", "data_ptr"),
    )
}
"""Methods that give Python all numbers of a tensor without an operation of torch."""

TRIED = READS_VALUE | {"tolist", "numpy", "__array__"}
"""Reads whose answer can be replaced by another."""

SIZES: dict[TorchFunction, str] = {
    **{getter: name for name in ("shape", "nbytes") for getter in property_getters(name)},
    **{getattr(Tensor, name): name for name in ("size", "__len__", "numel", "nelement", "stride")},
    torch.tensor_split: "tensor_split",
    Tensor.tensor_split: "tensor_split",
}
"""Methods that give Python the size of a tensor; or, of `tensor_split`, sizes that the numbers of a tensor are."""


Answers = Mapping[Place, Callable[[Any], Any]]
"""For some places, what Python is given in place of what it reads."""


class EndlessStep(BaseException):
    """With another answer, a step carries out many more operations than with its own.

    It is no `Exception`, so that a person's own `except Exception` lets it pass.
    """


class Read(NamedTuple):
    """Python looked at a value that depends on examples."""

    place: Place
    operation: str

    def is_in(self, file: str, function: str) -> bool:
        """Whether it is in a function of a file of an installed package, or anywhere in the file if the function's name is empty.

        Args:
            file: from the package's name on, such as "transformers/masking_utils.py". A copy of it elsewhere is another file.
            function: its qualified name.
        """
        package = getattr(sys.modules.get(file.partition("/")[0]), "__file__", None)
        installed = package is not None and Path(self.place.file) == Path(package).parents[1] / file
        return installed and function in ("", self.place.function)

    def __str__(self) -> str:
        return f"{self.operation} at {self.place}"


class FunctionReads(TorchFunctionMode):
    """Notes what Python is handed above the operations that `Ownership` sees."""

    def __init__(self, ownership: Ownership, answers: Answers) -> None:
        super().__init__()
        self.ownership = ownership
        self.answers = answers
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
            result = self._note_given(func, tensors(args, kwargs), result)
        if self.ownership.python_data and func in READS_VALUES and isinstance(result, Tensor):
            self.ownership.own_python_data(result)
        return result

    def answer(self, operation: str, value: Any) -> Any:
        """Note that a number was read, unless by a function that only checks it, and return what Python is given."""
        if self._calls and _only_checks(*self._calls[-1]):
            return value
        return self._given(operation, value)

    def _note_given(self, func: TorchFunction, given: list[Tensor], result: Result) -> Result:
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            maps = [self.ownership.of(value) for value in given]
            told = any(
                owned.ordered
                or not all(map(keeps_number, owned.orders))
                or (func in HANDS_OUT and not owned.is_constant)
                for owned in maps
            )
            told |= SIZES.get(func) == "tensor_split" and any(not owned.is_constant for owned in maps[1:])
        if told and not is_own():
            return self._given(HANDS_OUT.get(func) or SIZES[func], result)
        return result

    def _given(self, operation: str, value: Any) -> Any:
        read = Read(place(), operation)
        self.ownership.reads.append(read)
        alter = self.answers.get(read.place)
        return value if alter is None or operation not in TRIED else altered(value, alter)


def altered(value: Any, alter: Callable[[Any], Any]) -> Any:
    """Return what Python is handed with each of its numbers altered."""
    if isinstance(value, list | tuple):
        return type(value)(altered(v, alter) for v in value)
    if isinstance(value, np.ndarray):
        numbers = [alter(v) for v in value.flatten().tolist()]
        return np.asarray(numbers).astype(value.dtype).reshape(value.shape)
    return alter(value)


def _only_checks(func: TorchFunction, args: Args, kwargs: Kwargs) -> bool:
    """Whether a function of torch looks at values to refuse some, and for nothing else."""
    classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
    return func is torch.nn.functional.one_hot and classes != -1
