"""Which operations a step ran, on what: two steps of the same path depend on their examples in the same way."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from dplit.grads.types import Args, Kwargs, TorchFunction

SMALL = 8
"""Whole numbers up to this size, such as dimensions, are told as they are, also where a tensor has such a size."""

MOST_COMPARED = 1_000_000
"""Most numbers of a tensor that are compared with those of another step."""

TAKES_SIZES = frozenset(
    {
        *("view", "reshape", "expand", "broadcast_to", "unflatten", "repeat", "tile", "zeros", "ones", "empty", "full"),
        *("rand", "randn", "new_zeros", "new_ones", "new_empty", "new_full", "arange"),
    }
)
"""Functions whose whole numbers are sizes of what they return."""

BRINGS_IN = frozenset(
    {
        *("tensor", "as_tensor", "asarray", "from_numpy", "frombuffer", "new_tensor"),
        *("Tensor", "FloatTensor", "DoubleTensor", "LongTensor", "IntTensor", "BoolTensor"),
    }
)
"""Functions whose whole numbers are values that Python gives to torch."""


class Path:
    """The sequence of operations of a step as one number, and all numbers of Python in it as another.

    The first, `digest`, tells functions, which results went into which, types and sizes: 0, 1, n, multiples of n, and of
    other sizes which are the same, whatever they are, so that a text of another length, or a draw of another size, takes a
    path that is known. Whole numbers that are no sizes, such as dimensions and places, are told as they are.

    The second, `values`, tells what Python decided beside that: fractions, numbers that it brought in, and which of
    the tensors that were there before came in. It matters where Python read values of the examples.

    Args:
        examples: n, 2 at least.
        named: tensors that are there before the step, in an order that is always the same.
    """

    def __init__(self, examples: int, named: Iterable[Tensor] = ()) -> None:
        self.examples = examples
        self.digest = 0
        self.values = 0
        self._numbers: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._sizes: dict[int, int] = {}
        self._last = 0
        self.know(named)

    def know(self, values: Iterable[Tensor]) -> None:
        """Number tensors that are there before the step."""
        for value in values:
            self._number(value)

    def note(self, func: TorchFunction, args: Args, kwargs: Kwargs, results: Iterable[Tensor]) -> None:
        """Add an operation."""
        name = getattr(func, "__name__", "")
        if name in BRINGS_IN:
            self._bring_in(args, kwargs)
            self.digest = hash((self.digest, name))
        else:
            sizes = name in TAKES_SIZES
            given = tuple([self._sketch(v, sizes) for v in args])
            named = tuple([(key, self._sketch(v, sizes)) for key, v in kwargs.items()]) if kwargs else ()
            self.digest = hash((self.digest, func, given, named, str(torch.is_grad_enabled())))
        for value in results:
            self._last += 1
            self._numbers[id(value)] = weakref.ref(value), self._last

    def _bring_in(self, args: Args, kwargs: Kwargs) -> None:
        """Add the contents of what Python gives to torch."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                self._sketch(value, sizes=False)
            else:
                self.values = hash((self.values, _contents(value)))

    def _number(self, value: Tensor) -> int:
        known = self._numbers.get(id(value))
        if known is not None and known[0]() is value:
            return known[1]
        self._last += 1
        self._numbers[id(value)] = weakref.ref(value), self._last
        return self._last

    def _met(self, value: Tensor) -> int:
        """Return the number of a tensor; one that no operation made was chosen, or made, by Python."""
        known = self._numbers.get(id(value))
        if known is None or known[0]() is not value:
            with torch._C.DisableTorchFunction():
                self.values = hash((self.values, _numbers(value)))
        return self._number(value)

    def _sketch(self, value: object, sizes: bool) -> object:
        """Return what the path tells of an argument."""
        if isinstance(value, Tensor):
            return self._met(value), value.dtype, tuple([self._size(s) for s in value.shape])
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool) or value is None:
            return str(value)
        if isinstance(value, int):
            return self._size(value) if sizes and value > 0 else self._whole(value)
        if isinstance(value, float | complex):
            self.values = hash((self.values, repr(value)))
            return "number"
        if isinstance(value, list | tuple):
            return tuple([self._sketch(v, sizes) for v in value])
        if isinstance(value, slice):
            return tuple([self._sketch(v, False) for v in (value.start, value.stop, value.step)])
        if isinstance(value, dict):
            return tuple([(k, self._sketch(v, sizes)) for k, v in value.items()])
        if type(value).__hash__ is not None:
            return value
        self.values = hash((self.values, _contents(value)))
        return type(value)

    # Numbers are told as text, because Python's hash is the same for -1 and -2, and for 1 and True.

    def _size(self, size: int) -> str:
        """Return 0, 1, how many times n, or which of the sizes of this step it is, in the order of their appearance."""
        if size in (0, 1):
            return str(size)
        if self.examples > 1 and size % self.examples == 0:
            return "n" if size == self.examples else f"n * {self._size(size // self.examples)}"
        return f"size {self._sizes.setdefault(size, len(self._sizes))}"

    def _whole(self, value: int) -> str:
        size = abs(value)
        if size <= SMALL:
            return str(value)
        sign = "-" if value < 0 else ""
        if self.examples not in (1, size) and size % self.examples == 0:
            return f"{sign}n * {self._whole(size // self.examples)}"
        return sign + self._size(size) if size == self.examples or size in self._sizes else str(value)


def _contents(value: object) -> object:
    """Return what tells a value that Python brings in from others of its type."""
    return (value.tobytes(), value.shape, value.dtype.str) if isinstance(value, np.ndarray) else repr(value)


def _numbers(value: Tensor) -> object:
    """Return what tells a tensor that Python made: its numbers, if they are few and at hand."""
    if value.layout != torch.strided or value.device.type != "cpu" or value.numel() > MOST_COMPARED:
        return id(value)
    try:
        return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except RuntimeError:  # it has no memory of its own, or is being made
        return id(value)
