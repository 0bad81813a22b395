"""The tensors that are there before a step, so that one which comes from elsewhere within it is known by that."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")


class Present:
    """The storages of the tensors that were there when they were last looked for.

    To look for them goes through all objects of the process, a tenth of a second and more, so that it is done once, and
    again where a step used a tensor that is none of them and may have been made since. A storage that is freed keeps its
    address here, so that no later one has it.
    """

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] | None = None
        self._missed = self._collected = False

    @property
    def is_known(self) -> bool:
        """Whether they were ever looked for."""
        return self._storages is not None

    def look(self) -> None:
        """Look for the tensors that are there now."""
        self._storages = storages_of(_instances(Tensor, gc.get_objects()))

    def has(self, address: int) -> bool:
        """Whether a storage was there."""
        found = self._storages is not None and address in self._storages
        self._missed |= not found
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Run a step so that `look_again` can tell what was made in it: the youngest generation of the collector."""
        self._missed = self._collected = False
        enabled = gc.isenabled()
        gc.collect(0)
        gc.disable()
        gc.callbacks.append(self._note_collection)
        try:
            yield
        finally:
            gc.callbacks.remove(self._note_collection)
            if enabled:
                gc.enable()

    def look_again(self) -> bool:
        """Look, within `watched`, for the tensors that were there before the step, if it used one that is not known.

        Returns:
            Whether it was looked; False also where the step ran the collector, and it cannot be told what is older.
        """
        if not self._missed or self._collected:
            return False
        older = [*gc.get_objects(generation=2), *gc.get_objects(generation=1)]
        self._storages = storages_of(_instances(Tensor, older))
        return True

    def _note_collection(self, phase: str, info: dict[str, int]) -> None:
        self._collected = True


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


def _instances(base: type[T], objects: Sequence[object]) -> Iterator[T]:
    """Yield those objects that are of a class or its subclasses; the loop is in C, because there may be millions."""
    kinds: set[int] = set()
    classes = [base]
    while classes:
        kinds.add(id(classes[-1]))
        classes += type.__subclasses__(classes.pop())
    return itertools.compress(objects, map(kinds.__contains__, map(id, map(type, objects))))  # type: ignore[arg-type]
