"""Where the examples are in an activation: outermost, unless an operation moved them."""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.batch_axis.row_slots import most_rows, rows_to_slots, slots_to_rows


class BatchAxis(ABC):
    """Where the n examples of an activation are, if not outermost: how to bring them there and back."""

    @abstractmethod
    def outermost(self, x: Tensor) -> Tensor:
        """Return x with the examples first, `(n, ...)`; its last dimensions stay the last."""

    @abstractmethod
    def restored(self, y: Tensor) -> Tensor:
        """Return y in x's order; y is `(n, ...)` as `outermost` returned it, except for trailing dimensions."""

    @abstractmethod
    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        """Return p so that it meets `outermost(x)` as p meets x, which has `dim` dimensions; None if that cannot be."""


@dataclass(frozen=True)
class InDim(BatchAxis):
    """The examples are in dimension `dim`, which is `(before, n, rest)` flattened."""

    dim: int
    before: int
    """How many numbers of the dimension are outside of the examples."""
    examples: int
    """n."""

    def outermost(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(self.dim, (self.before, self.examples, -1))
        return split.movedim(self.dim + 1, 0)

    def restored(self, y: Tensor) -> Tensor:
        return y.movedim(0, self.dim + 1).flatten(self.dim, self.dim + 2).contiguous()

    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        padded = p.reshape((1,) * (dim - p.dim()) + tuple(p.shape))
        if padded.shape[self.dim] != 1:
            return None
        split: Tensor = padded.unflatten(self.dim, (1, 1, 1))
        return split.movedim(self.dim + 1, 0)


@dataclass(frozen=True)
class RowOwners(BatchAxis):
    """Row r of the first dimension belongs to example `owner[r]`, in any order; examples may have different numbers of rows.

    With the examples outermost the activation is `(n, most, ...)`, where `most` is the largest number of rows that an example
    has; the others are filled up with rows of zeros.
    """

    owner: Tensor
    """`(m,)` int64."""
    examples: int
    """n."""

    def outermost(self, x: Tensor) -> Tensor:
        slots: Tensor = rows_to_slots(x, self.owner, self.examples, most_rows(self.owner, self.examples))
        return slots

    def restored(self, y: Tensor) -> Tensor:
        rows: Tensor = slots_to_rows(y, self.owner)
        return rows

    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        return p if p.dim() < dim or p.shape[0] == 1 else None


@dataclass(frozen=True)
class Mixed(BatchAxis):
    """It is not known which numbers belong to which example."""

    why: str
    """What lost track of them."""

    def outermost(self, x: Tensor) -> Tensor:
        raise NotImplementedError(self.why)

    def restored(self, y: Tensor) -> Tensor:
        raise NotImplementedError(self.why)

    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        return None


def axis_at_depth(depth: int, shape: Sequence[int], n: int) -> BatchAxis | None:
    """Return the axis of n examples that have `depth` numbers outside of them in the row-major order of this shape."""
    outside = 1
    for dim, size in enumerate(shape):
        if depth % outside == 0 and size % (depth // outside * n) == 0 and size > 0:
            return InDim(dim, depth // outside, n)
        outside *= size
    return Mixed("a reshape cut through the examples")


class BatchAxes:
    """The batch axes of a tape's activations, by the identity of the tensor; it keeps no tensor alive."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self._axes: dict[int, tuple[weakref.ref[Tensor], BatchAxis]] = {}

    def __len__(self) -> int:
        return len(self._axes)

    def of(self, value: Tensor) -> BatchAxis | None:
        """Return where the examples are in a tensor, or None for outermost."""
        entry = self._axes.get(id(value))
        return entry[1] if entry is not None and entry[0]() is value else None

    def put(self, value: Tensor, axis: BatchAxis | None) -> None:
        """Note where the examples are in a tensor; None, or an axis that amounts to it, means outermost."""
        if (
            axis is None
            or (isinstance(axis, InDim) and (axis.dim, axis.before) == (0, 1))
            or (isinstance(axis, RowOwners) and torch.equal(axis.owner, self._regular_owners(value)))
        ):
            self._axes.pop(id(value), None)
        else:
            self._axes[id(value)] = (weakref.ref(value), axis)

    def owners(self, value: Tensor) -> Tensor | None:
        """Return which example each row of the first dimension belongs to, `(m,)`, or None where a row is not one example's."""
        axis = self.of(value)
        if isinstance(axis, RowOwners):
            return axis.owner
        if axis is None and value.dim() and len(value) % self.examples == 0:
            return self._regular_owners(value)
        return None

    def position(self, value: Tensor) -> tuple[int, int] | None:
        """Return `(dim, before)` of a tensor whose examples are in one dimension, as in `InDim`; else None."""
        axis = self.of(value)
        if isinstance(axis, InDim):
            return axis.dim, axis.before
        return (0, 1) if axis is None else None

    def depth(self, value: Tensor) -> int | None:
        """Return how many numbers are outside of the examples in a tensor's row-major order; None if they are in no dimension."""
        position = self.position(value)
        return None if position is None else math.prod(value.shape[: position[0]]) * position[1]

    def _regular_owners(self, value: Tensor) -> Tensor:
        """Return the owners of rows that are in order, as many of each example; of no example where that cannot be."""
        rows, n = len(value), self.examples
        owners = torch.arange(n, device=value.device).repeat_interleave(-(-rows // n))
        return owners if rows % n == 0 else owners.new_full((rows,), -1)
