"""The tensors that are there before a step, so that one which comes from elsewhere within it is known by that."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")


class Present:
    """The storages of the tensors that were there when they were last looked for.

    To look for them goes through all objects of the process, a tenth of a second and more, so that it is done once, and
    again where a step uses a tensor that is none of them and might have been made since. A storage that is freed keeps its
    address here, so that no later one has it.

    Attributes:
        missed: whether a tensor was asked for that is none of them, since this was last set to False.
    """

    def __init__(self) -> None:
        self.missed = False
        self._storages: dict[int, StorageWeakRef] | None = None

    @property
    def is_known(self) -> bool:
        """Whether they were ever looked for."""
        return self._storages is not None

    def look(self) -> None:
        """Look for the tensors that are there now."""
        self._storages = storages_of(_instances(Tensor))

    def has(self, address: int) -> bool:
        """Whether a storage was there."""
        found = self._storages is not None and address in self._storages
        self.missed |= not found
        return found


PRESENT = Present()
"""Of this process."""


def storages_of(values: Iterable[Tensor]) -> dict[int, StorageWeakRef]:
    """Return the storages of tensors that have memory, by address."""
    with torch._C.DisableTorchFunction():  # whatever else is alive in the process is none of the step's doing
        return {address_of(v): StorageWeakRef(v.untyped_storage()) for v in values if _has_memory(v)}


def address_of(value: Tensor) -> int:
    """Return what tells the memory of a tensor from others."""
    address: int = value.untyped_storage()._cdata
    return address


def _has_memory(value: Tensor) -> bool:
    try:
        return bool(address_of(value))
    except (RuntimeError, NotImplementedError):  # a sparse tensor, or one inside torch.func
        return False


def _instances(base: type[T]) -> Iterator[T]:
    """Yield the objects of a class and its subclasses that the collector knows; the loop over all objects is in C."""
    kinds: set[int] = set()
    classes = [base]
    while classes:
        kinds.add(id(classes[-1]))
        classes += type.__subclasses__(classes.pop())
    objects = gc.get_objects()
    return itertools.compress(objects, map(kinds.__contains__, map(id, map(type, objects))))
