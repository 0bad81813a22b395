"""What a tape collects gradients for: trainable parameters, and tensors computed from them alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dplit.grads.place import PlacedUse, view_place
from dplit.grads.rules import PULLS
from dplit.grads.units import Units
from dplit.grads.use import DenseUse, Use


class Source(ABC):
    """A tensor whose uses the tape records."""

    tensor: Tensor

    @property
    @abstractmethod
    def name(self) -> str:
        """How messages call it."""

    @abstractmethod
    def trace(self, use: Use) -> Iterator[tuple[str, Use]]:
        """Yield `(parameter name, use of that parameter)`: the same gradients, led back to parameters."""


@dataclass(frozen=True)
class Parameter(Source):
    """A trainable parameter of the module."""

    tensor: Tensor
    label: str

    @property
    def name(self) -> str:
        return self.label

    def trace(self, use: Use) -> Iterator[tuple[str, Use]]:
        yield self.label, use


@dataclass(frozen=True)
class Derived(Source):
    """A tensor d = f(p, ...) computed from parameters and constants alone, such as `exp(scale)` or a position table.

    The model goes on with `tensor`, a leaf cut off from p; gᵢ(p) = Jᵀ gᵢ(d) with J the derivative of f is applied
    afterwards, by a registered pull where f has a cheap one, as a place in p where d is a view, else by f's own backward.
    """

    tensor: Tensor
    graph: Tensor
    """d as computed, still joined to p."""
    parents: tuple[Source, ...]
    operation: Any = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{getattr(self.operation, '__name__', 'f')}({', '.join(parent.name for parent in self.parents)})"

    def trace(self, use: Use) -> Iterator[tuple[str, Use]]:
        known = PULLS[self.operation](self, use) if self.operation in PULLS else None
        if known is None:
            known = [(parent, self._seen_from(parent, use)) for parent in self.parents]
        for parent, led_back in [(self.parents[0], known)] if isinstance(known, Use) else known:
            yield from parent.trace(led_back)

    def _seen_from(self, parent: Source, use: Use) -> Use:
        place = view_place(self.graph, parent.tensor)
        return PulledUse(use, self.graph, parent.tensor) if place is None else PlacedUse(use, place)


@dataclass(frozen=True)
class PulledUse(Use):
    """A use of d = f(p) seen from p: gᵢ(p) = Jᵀ gᵢ(d), each Jᵀ being one backward through f."""

    use: Use
    graph: Tensor
    parent: Tensor

    @property
    def examples(self) -> int:
        return self.use.examples

    @property
    def size(self) -> int:
        return max(self.use.size, self.parent.numel())

    def select(self, index: Tensor | slice) -> PulledUse:
        return PulledUse(self.use.select(index), self.graph, self.parent)

    def together(self, units: Units) -> PulledUse:
        return PulledUse(self.use.together(units), self.graph, self.parent)

    def dense(self) -> Tensor:
        grads = self.use.dense().to(self.graph.dtype).view(self.examples, *self.graph.shape)
        return self._backward(grads, batched=True, shape=(self.examples, *self.parent.shape))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        total = self._built_sum(weights).to(self.graph.dtype).view(self.graph.shape)
        return self._backward(total, batched=False, shape=tuple(self.parent.shape))

    def _built_sum(self, weights: Tensor) -> Tensor:
        """Return Σᵢ wᵢ gᵢ(d) of the gradients that the norms were taken of: terms that cancel in one cancel in the other."""
        starts, total = 0, None
        for part in self.use.chunks(self.size):
            own = DenseUse(part.dense()).weighted_sum(weights[starts : starts + part.examples])
            total = own if total is None else total + own
            starts += part.examples
        assert total is not None
        return total

    def _backward(self, grads: Tensor, batched: bool, shape: tuple[int, ...]) -> Tensor:
        (found,) = torch.autograd.grad(
            self.graph, self.parent, grads, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        return self.parent.new_zeros(shape) if found is None else found.detach()
