"""Where Python looks at values that depend on examples, and decides by them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from dplit.grads.ownership.blame import Place, place
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

    def __torch_function__(
        self, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        """Carry a function out, and note it if it hands out values."""
        if func in HANDS_OUT or func in SIZES:
            name = HANDS_OUT.get(func) or SIZES[func]
            for value in tensors(args, kwargs or {}):
                owned = self.ownership.of(value)
                if owned.ordered or (func in HANDS_OUT and not owned.is_constant):
                    self.ownership.reads.append(Read(place(), name))
        return func(*args, **(kwargs or {}))
