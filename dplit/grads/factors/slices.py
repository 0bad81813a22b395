"""Parts of a tensor that hold each of its numbers at most once, such as slices: what is used there weighs the same."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, inner
from dplit.grads.factors.units import Units

Box = tuple[tuple[int, int], ...]
"""`(first, last)` index along each dimension."""


class Place(ABC):
    """Where the numbers of d lie in p, each somewhere else."""

    shape: tuple[int, ...]
    """d's shape."""
    whole: tuple[int, ...]
    """p's shape."""
    device: torch.device

    @abstractmethod
    def scatter(self, values: Tensor) -> Tensor:
        """Return `(m, *p)`, zero but for `(m, *d)` values."""

    @abstractmethod
    def numbers(self) -> Tensor:
        """Return d's positions in p counted in row-major order, flat."""

    @abstractmethod
    def same(self, other: Place) -> bool:
        """Whether another d is known to hold the same numbers in the same order and shape."""

    def apart(self, other: Place) -> bool:
        """Whether another d has no number of p in common with this one."""
        taken = torch.zeros(math.prod(self.whole), dtype=torch.bool, device=self.device)
        taken[self.numbers()] = True
        return not bool(taken[other.numbers()].any())


@dataclass(frozen=True)
class Strided(Place):
    """d is a view of p: equal steps along each of its dimensions."""

    shape: tuple[int, ...]
    whole: tuple[int, ...]
    device: torch.device
    offset: int
    """Of d's first number from p's."""
    strides: tuple[int, ...]
    """d's."""
    steps: tuple[int, ...]
    """p's strides."""
    box: Box | None
    """An upright box in p that contains d, if there is one."""

    def scatter(self, values: Tensor) -> Tensor:
        m, span = values.shape[0], 1 + _reach(self.whole, self.steps)
        room = values.new_zeros(m * span)
        room.as_strided((m, *self.shape), (span, *self.strides), self.offset).copy_(values)
        return room.as_strided((m, *self.whole), (span, *self.steps))

    def numbers(self) -> Tensor:
        room = torch.empty(1 + _reach(self.whole, self.steps), dtype=torch.long, device=self.device)
        count = torch.arange(math.prod(self.whole), device=self.device).view(self.whole)
        room.as_strided(self.whole, self.steps).copy_(count)
        return room.as_strided(self.shape, self.strides, self.offset).flatten()

    def same(self, other: Place) -> bool:
        return self == other

    def apart(self, other: Place) -> bool:
        if isinstance(other, Strided) and self.box and other.box:
            sides = zip(self.box, other.box, strict=True)
            if any(last < start or end < first for (first, last), (start, end) in sides):
                return True
        return super().apart(other)


@dataclass(frozen=True, eq=False)
class Listed(Place):
    """d is rows of p, each a run of numbers, in a listed order."""

    shape: tuple[int, ...]
    whole: tuple[int, ...]
    rows: Tensor
    """Flat, no row twice."""
    width: int
    """Numbers in a row."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.rows.device

    def scatter(self, values: Tensor) -> Tensor:
        m = values.shape[0]
        full = values.new_zeros(m, math.prod(self.whole) // self.width, self.width)
        return full.index_copy_(1, self.rows, values.reshape(m, -1, self.width)).view(m, *self.whole)

    def numbers(self) -> Tensor:
        return (self.rows[:, None] * self.width + torch.arange(self.width, device=self.device)).flatten()

    def same(self, other: Place) -> bool:
        alike = isinstance(other, Listed) and (other.shape, other.width) == (self.shape, self.width)
        return alike and bool(torch.equal(self.rows, cast("Listed", other).rows))


@dataclass(frozen=True)
class SlicedGrad(FactoredGrad):
    """A use of d seen from p, where d holds numbers of p at one place and p has gradient zero elsewhere.

    Norms are those of d's use; inner products too at one place, and zero between places that are apart.
    """

    use: FactoredGrad
    place: Place

    @property
    def examples(self) -> int:
        return self.use.examples

    @property
    def size(self) -> int:
        return math.prod(self.place.whole)

    def select(self, index: Tensor | slice) -> SlicedGrad:
        return replace(self, use=self.use.select(index))

    def together(self, units: Units) -> SlicedGrad:
        return replace(self, use=self.use.together(units))

    def dense(self) -> Tensor:
        return self.place.scatter(self.use.dense().reshape(self.examples, *self.place.shape))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.place.scatter(self.use.weighted_sum(weights).reshape(1, *self.place.shape))[0]

    def sq_norm(self) -> Tensor:
        return self.use.sq_norm()

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if not isinstance(other, SlicedGrad):
            return None
        if self.place.same(other.place):
            return inner(self.use, other.use)
        if self.place.apart(other.place):
            return torch.zeros(self.examples, device=self.place.device)
        return None


def view_place(graph: Tensor, parent: Tensor) -> Strided | None:
    """Return where in its parent a view lies, or None for what is no view or holds a number twice."""
    if not is_view(graph, parent):
        return None
    shape, strides = tuple(graph.shape), graph.stride()
    whole, steps = tuple(parent.shape), parent.stride()
    if not (_once(shape, strides) and _once(whole, steps)):
        return None
    offset = int(graph.storage_offset() - parent.storage_offset())
    return Strided(shape, whole, parent.device, offset, strides, steps, _box(offset, shape, strides, whole, steps))


def is_view(graph: Tensor, parent: Tensor) -> bool:
    """Whether a tensor is other numbers' memory, read as they are."""
    plain = all(t.layout == torch.strided and t.numel() and not (t.is_neg() or t.is_conj()) for t in (graph, parent))
    alike = plain and graph.dtype == parent.dtype and graph.device == parent.device
    return alike and graph.untyped_storage().data_ptr() == parent.untyped_storage().data_ptr()


def _once(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether no two indices are one number in memory."""
    reach = 0
    for stride, size in sorted((s, k) for s, k in zip(strides, shape, strict=True) if k > 1):
        if stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def _reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    return sum(s * (k - 1) for s, k in zip(strides, shape, strict=True))


def _box(
    offset: int, shape: Sequence[int], strides: Sequence[int], whole: Sequence[int], steps: Sequence[int]
) -> Box | None:
    order = sorted((d for d, size in enumerate(whole) if size > 1), key=lambda d: -steps[d])
    first = [0] * len(whole)
    for d in order:
        first[d], offset = divmod(offset, steps[d])
    last = list(first)
    for size, stride in ((k, s) for k, s in zip(shape, strides, strict=True) if k > 1):
        along = next((d for d in order if steps[d] <= stride), None)
        if along is None or stride % steps[along]:
            return None
        last[along] += stride // steps[along] * (size - 1)
    inside = all(end < size for end, size in zip(last, whole, strict=True))
    return tuple(zip(first, last, strict=True)) if inside else None
