"""Gradients of a part of a parameter that holds each number at most once, such as a slice: their norms stay the same."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, inner
from dplit.grads.factors.units import Units

Box = tuple[tuple[int, int], ...]
"""`(first, last)` index along each dimension."""


class TensorSlice(ABC):
    """Where the numbers of a tensor d lie in its parent p, each in a place of its own."""

    shape: tuple[int, ...]
    """d's shape."""
    parent_shape: tuple[int, ...]
    """p's shape."""
    device: torch.device
    """Where p is."""

    @abstractmethod
    def scatter(self, values: Tensor) -> Tensor:
        """Return m tensors of p's shape, `(m, *p)`, that hold the `(m, *d)` values in d's places and zero elsewhere."""

    @abstractmethod
    def flat_indices(self) -> Tensor:
        """Return which number of p each number of d is, counted in row-major order, as a flat int64 tensor."""

    @abstractmethod
    def same_as(self, other: TensorSlice) -> bool:
        """Whether another slice of p is known to hold the same numbers in the same order and shape."""

    def disjoint_from(self, other: TensorSlice) -> bool:
        """Whether another slice of p has no number in common with this one."""
        taken = torch.zeros(math.prod(self.parent_shape), dtype=torch.bool, device=self.device)
        taken[self.flat_indices()] = True
        return not bool(taken[other.flat_indices()].any())


@dataclass(frozen=True)
class StridedSlice(TensorSlice):
    """d is a view of p, with an equal step along each of its dimensions."""

    shape: tuple[int, ...]
    parent_shape: tuple[int, ...]
    device: torch.device
    offset: int
    """How many numbers in memory lie between p's first number and d's."""
    strides: tuple[int, ...]
    """d's strides."""
    parent_strides: tuple[int, ...]
    """p's strides."""
    box: Box | None
    """First and last index in each dimension of p between which d lies, if that can be told."""

    def scatter(self, values: Tensor) -> Tensor:
        m, span = values.shape[0], 1 + _extent(self.parent_shape, self.parent_strides)
        room = values.new_zeros(m * span)
        room.as_strided((m, *self.shape), (span, *self.strides), self.offset).copy_(values)
        return room.as_strided((m, *self.parent_shape), (span, *self.parent_strides))

    def flat_indices(self) -> Tensor:
        room = torch.empty(1 + _extent(self.parent_shape, self.parent_strides), dtype=torch.long, device=self.device)
        count = torch.arange(math.prod(self.parent_shape), device=self.device).view(self.parent_shape)
        room.as_strided(self.parent_shape, self.parent_strides).copy_(count)
        return room.as_strided(self.shape, self.strides, self.offset).flatten()

    def same_as(self, other: TensorSlice) -> bool:
        return self == other

    def disjoint_from(self, other: TensorSlice) -> bool:
        if isinstance(other, StridedSlice) and self.box and other.box:
            sides = zip(self.box, other.box, strict=True)
            if any(last < start or end < first for (first, last), (start, end) in sides):
                return True
        return super().disjoint_from(other)


@dataclass(frozen=True, eq=False)
class RowSlice(TensorSlice):
    """d consists of rows of p, each a run of `width` numbers, in a listed order."""

    shape: tuple[int, ...]
    parent_shape: tuple[int, ...]
    rows: Tensor
    """`(k,)` row numbers, none of them twice."""
    width: int
    """Numbers in a row."""
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.rows.device)

    def scatter(self, values: Tensor) -> Tensor:
        m = values.shape[0]
        full = values.new_zeros(m, math.prod(self.parent_shape) // self.width, self.width)
        return full.index_copy_(1, self.rows, values.reshape(m, -1, self.width)).view(m, *self.parent_shape)

    def flat_indices(self) -> Tensor:
        return (self.rows[:, None] * self.width + torch.arange(self.width, device=self.device)).flatten()

    def same_as(self, other: TensorSlice) -> bool:
        if not isinstance(other, RowSlice) or (other.shape, other.width) != (self.shape, self.width):
            return False
        return torch.equal(self.rows, other.rows)


@dataclass(frozen=True)
class SlicedGrad(FactoredGrad):
    """The gradient of p where only the slice d of p was applied: that of d in d's places, zero elsewhere.

    Its norm is that of d's gradient. The inner product of two of them is that of their d's gradients where both are the
    same slice, and zero where the slices are disjoint.
    """

    wrapped: FactoredGrad
    """The gradient of d."""
    part: TensorSlice

    @property
    def examples(self) -> int:
        return self.wrapped.examples

    @property
    def size(self) -> int:
        return math.prod(self.part.parent_shape)

    def select(self, index: Tensor | slice) -> SlicedGrad:
        return replace(self, wrapped=self.wrapped.select(index))

    def averaged(self, units: Units) -> SlicedGrad:
        return replace(self, wrapped=self.wrapped.averaged(units))

    def dense(self) -> Tensor:
        return self.part.scatter(self.wrapped.dense().reshape(self.examples, *self.part.shape))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.part.scatter(self.wrapped.weighted_sum(weights).reshape(1, *self.part.shape))[0]

    def sq_norm(self) -> Tensor:
        return self.wrapped.sq_norm()

    def factors_sq_norm(self) -> Tensor | float:
        return self.wrapped.factors_sq_norm()

    @property
    def factors_size(self) -> int:
        return self.wrapped.factors_size

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if not isinstance(other, SlicedGrad):
            return None
        if self.part.same_as(other.part):
            return inner(self.wrapped, other.wrapped)
        if self.part.disjoint_from(other.part):
            return torch.zeros(self.examples, device=self.part.device)
        return None


def slice_of_view(view: Tensor, parent: Tensor) -> StridedSlice | None:
    """Return where a view lies in its parent, or None if it is no view of it or holds a number twice."""
    if not is_view(view, parent):
        return None
    shape, strides = tuple(view.shape), view.stride()
    parent_shape, parent_strides = tuple(parent.shape), parent.stride()
    if not (_no_repeats(shape, strides) and _no_repeats(parent_shape, parent_strides)):
        return None
    offset = int(view.storage_offset() - parent.storage_offset())
    box = _box(offset, shape, strides, parent_shape, parent_strides)
    return StridedSlice(shape, parent_shape, parent.device, offset, strides, parent_strides, box)


def is_view(view: Tensor, parent: Tensor) -> bool:
    """Whether a tensor reads the memory of its parent without changing the numbers."""
    plain = all(t.layout == torch.strided and t.numel() and not (t.is_neg() or t.is_conj()) for t in (view, parent))
    alike = plain and view.dtype == parent.dtype and view.device == parent.device
    return alike and view.untyped_storage().data_ptr() == parent.untyped_storage().data_ptr()


def _no_repeats(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether no two indices lead to the same number in memory."""
    reach = 0
    for stride, size in sorted((s, k) for s, k in zip(strides, shape, strict=True) if k > 1):
        if stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def _extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many numbers in memory lie between a tensor's first number and its last."""
    return sum(s * (k - 1) for s, k in zip(strides, shape, strict=True))


def _box(
    offset: int,
    shape: Sequence[int],
    strides: Sequence[int],
    parent_shape: Sequence[int],
    parent_strides: Sequence[int],
) -> Box | None:
    """Return first and last index in each dimension of p between which a view of these strides lies, or None if unknown."""
    order = sorted((d for d, size in enumerate(parent_shape) if size > 1), key=lambda d: -parent_strides[d])
    first = [0] * len(parent_shape)
    for d in order:
        first[d], offset = divmod(offset, parent_strides[d])
    last = list(first)
    for size, stride in ((k, s) for k, s in zip(shape, strides, strict=True) if k > 1):
        along = next((d for d in order if parent_strides[d] <= stride), None)
        if along is None or stride % parent_strides[along]:
            return None
        last[along] += stride // parent_strides[along] * (size - 1)
    inside = all(end < size for end, size in zip(last, parent_shape, strict=True))
    return tuple(zip(first, last, strict=True)) if inside else None
