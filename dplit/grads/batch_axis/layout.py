"""Where the examples lie in an activation: outermost unless an operation moved them."""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Layout(ABC):
    """How to bring the n examples of an activation outermost and back. An activation without one has them there."""

    @abstractmethod
    def outermost(self, x: Tensor) -> Tensor:
        """Return x with the examples first, `(n, ...)`; its last dimensions stay the last."""

    @abstractmethod
    def restored(self, y: Tensor) -> Tensor:
        """Return y, `(n, ...)` as `outermost` gave it up to trailing dimensions, in x's order."""

    @abstractmethod
    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        """Return a tensor that broadcasts against an x of `dim` dimensions as one against `outermost(x)`, or None."""


@dataclass(frozen=True)
class InDim(Layout):
    """The examples are in dimension `dim`, `before` numbers of that dimension outside of them, the rest inside."""

    dim: int
    before: int
    examples: int

    def outermost(self, x: Tensor) -> Tensor:
        split = x.unflatten(self.dim, (self.before, self.examples, -1))
        return split.movedim(self.dim + 1, 0)  # type: ignore[no-any-return]

    def restored(self, y: Tensor) -> Tensor:
        return y.movedim(0, self.dim + 1).flatten(self.dim, self.dim + 2).contiguous()

    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        padded = p.reshape((1,) * (dim - p.dim()) + tuple(p.shape))
        if padded.shape[self.dim] != 1:
            return None
        return padded.unflatten(self.dim, (1, 1, 1)).movedim(self.dim + 1, 0)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Rows(Layout):
    """Row r of the first dimension belongs to example `owner[r]`, in any order, examples of unequal numbers of rows.

    Outermost they are `(n, most, ...)`, rows of zeros filling up.
    """

    owner: Tensor
    """`(m,)` int64."""
    examples: int

    def outermost(self, x: Tensor) -> Tensor:
        place, most = self._places()
        full = x.new_zeros(self.examples * most, *x.shape[1:]).index_copy(0, place, x)
        return full.unflatten(0, (self.examples, most))  # type: ignore[no-any-return]

    def restored(self, y: Tensor) -> Tensor:
        return y.flatten(0, 1).index_select(0, self._places()[0])

    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        return p if p.dim() < dim or p.shape[0] == 1 else None

    def _places(self) -> tuple[Tensor, int]:
        counts = torch.bincount(self.owner, minlength=self.examples)
        order = self.owner.argsort(stable=True)
        starts = (counts.cumsum(0) - counts)[self.owner[order]]
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order), device=order.device) - starts
        most = max(1, int(counts.max()))
        return self.owner * most + slot, most


@dataclass(frozen=True)
class Mixed(Layout):
    """Nobody knows any more whose numbers these are."""

    why: str

    def outermost(self, x: Tensor) -> Tensor:
        raise NotImplementedError(self.why)

    def restored(self, y: Tensor) -> Tensor:
        raise NotImplementedError(self.why)

    def broadcast(self, p: Tensor, dim: int) -> Tensor | None:
        return None


def located(depth: int, shape: Sequence[int], n: int) -> Layout | None:
    """Return where n examples are that have `depth` numbers outside of them in the flat order of this shape."""
    outside = 1
    for dim, size in enumerate(shape):
        if depth % outside == 0 and size % (depth // outside * n) == 0 and size > 0:
            return InDim(dim, depth // outside, n)
        outside *= size
    return Mixed("a reshape cut through the examples")


class BatchAxes:
    """The layouts of a tape's activations, by identity; keeps none of them alive."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self._known: dict[int, tuple[weakref.ref[Tensor], Layout]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, value: Tensor) -> Layout | None:
        """Return where the examples lie in a tensor, or None for outermost."""
        known = self._known.get(id(value))
        return known[1] if known is not None and known[0]() is value else None

    def put(self, value: Tensor, layout: Layout | None) -> None:
        """Note where the examples lie in a tensor."""
        if (
            layout is None
            or (isinstance(layout, InDim) and (layout.dim, layout.before) == (0, 1))
            or (isinstance(layout, Rows) and torch.equal(layout.owner, self._regular(value)))
        ):
            self._known.pop(id(value), None)
        else:
            self._known[id(value)] = (weakref.ref(value), layout)

    def owners(self, value: Tensor) -> Tensor | None:
        """Return whose each row of the first dimension is, `(m,)`, or None where rows are not one example's."""
        layout = self.of(value)
        if isinstance(layout, Rows):
            return layout.owner
        if layout is None and value.dim() and len(value) % self.examples == 0:
            return self._regular(value)
        return None

    def place(self, value: Tensor) -> tuple[int, int] | None:
        """Return `(dim, before)` of a tensor whose examples are in one dimension, else None."""
        layout = self.of(value)
        if isinstance(layout, InDim):
            return layout.dim, layout.before
        return (0, 1) if layout is None else None

    def depth(self, value: Tensor) -> int | None:
        """Return how many numbers lie outside the examples in the flat order of a tensor, or None."""
        found = self.place(value)
        return None if found is None else math.prod(value.shape[: found[0]]) * found[1]

    def _regular(self, value: Tensor) -> Tensor:
        rows, n = len(value), self.examples
        whole = torch.arange(n, device=value.device).repeat_interleave(-(-rows // n))
        return whole if rows % n == 0 else whole.new_full((rows,), -1)
