"""Which tensors came from constants alone: buffers, frozen parameters, `arange` and the like."""

from __future__ import annotations

import weakref

from torch import Tensor


class Constants:
    """A set of tensors by identity, that keeps none of them alive."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[Tensor]] = {}

    def add(self, value: Tensor) -> None:
        """Put a tensor in."""
        self._refs[id(value)] = weakref.ref(value)

    def discard(self, value: Tensor) -> None:
        """Take a tensor out, if it is in."""
        self._refs.pop(id(value), None)

    def __contains__(self, value: Tensor) -> bool:
        ref = self._refs.get(id(value))
        return ref is not None and ref() is value
