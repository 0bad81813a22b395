"""Which operations a step ran, on what: two steps of the same path depend on their examples in the same way."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dplit.grads.types import Args, Kwargs, TorchFunction

SMALL = 8
"""Whole numbers up to this size, such as dimensions, are told apart; of larger ones, such as sizes, only the class counts."""


class Path:
    """The sequence of operations of a step as one number.

    It tells functions, which results went into which, types, numbers of dimensions, and of each size whether it is 0, 1, n, a
    multiple of n or another: what the rules of ownership look at. It does not tell values, nor sizes apart that play the same part, so
    that a text of another length, or a draw of another size, takes a path that is known.

    Args:
        examples: n.
        named: tensors that are there before the step, in an order that is always the same.
    """

    def __init__(self, examples: int, named: Iterable[Tensor] = ()) -> None:
        self.examples = examples
        self.digest = 0
        self._numbers: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._last = 0
        for value in named:
            self._number(value)

    def note(self, func: TorchFunction, args: Args, kwargs: Kwargs, results: Iterable[Tensor]) -> None:
        """Add an operation."""
        given = tuple([self._sketch(v) for v in args])
        named = tuple([(name, self._sketch(v)) for name, v in kwargs.items()]) if kwargs else ()
        self.digest = hash((self.digest, func, given, named, torch.is_grad_enabled()))
        for value in results:
            self._last += 1
            self._numbers[id(value)] = weakref.ref(value), self._last

    def _number(self, value: Tensor) -> int:
        known = self._numbers.get(id(value))
        if known is not None and known[0]() is value:
            return known[1]
        self._last += 1
        self._numbers[id(value)] = weakref.ref(value), self._last
        return self._last

    def _sketch(self, value: Any) -> object:
        """Return what the path tells of an argument."""
        if isinstance(value, Tensor):
            return self._number(value), value.dtype, tuple([self._size(s) for s in value.shape])
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return value if -SMALL <= value <= SMALL and value != self.examples else self._size(value)
        if isinstance(value, float | complex):
            return "number"
        if isinstance(value, list | tuple):
            return tuple([self._sketch(v) for v in value])
        if isinstance(value, slice):
            return self._sketch(value.start), self._sketch(value.stop), self._sketch(value.step)
        if isinstance(value, dict):
            return tuple([(k, self._sketch(v)) for k, v in value.items()])
        return value if value.__hash__ else type(value)

    def _size(self, size: int) -> int:
        """Return 0, 1, or a class below 0: n itself, a multiple of it, none of these."""
        if size in (0, 1):
            return size
        return -1 if size == self.examples else -2 if size % self.examples == 0 else -3
