"""What a tape collects gradients for: trainable parameters, and tensors computed from them alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dplit.grads.factors.base import FactoredGrad
from dplit.grads.factors.slices import SlicedGrad, view_place
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.tape.registry import VJP_RULES


class Source(ABC):
    """A tensor whose uses the tape records."""

    tensor: Tensor

    @property
    @abstractmethod
    def name(self) -> str:
        """How messages call it."""

    @abstractmethod
    def trace(self, use: FactoredGrad) -> Iterator[tuple[str, FactoredGrad]]:
        """Yield `(parameter name, use of that parameter)`: the same gradients, led back to parameters."""


@dataclass(frozen=True)
class Parameter(Source):
    """A trainable parameter of the module."""

    tensor: Tensor
    label: str

    @property
    def name(self) -> str:
        return self.label

    def trace(self, use: FactoredGrad) -> Iterator[tuple[str, FactoredGrad]]:
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

    def trace(self, use: FactoredGrad) -> Iterator[tuple[str, FactoredGrad]]:
        known = VJP_RULES[self.operation](self, use) if self.operation in VJP_RULES else None
        if known is None:
            known = [(parent, self._seen_from(parent, use)) for parent in self.parents]
        for parent, led_back in [(self.parents[0], known)] if isinstance(known, FactoredGrad) else known:
            yield from parent.trace(led_back)

    def _seen_from(self, parent: Source, use: FactoredGrad) -> FactoredGrad:
        place = view_place(self.graph, parent.tensor)
        return VjpGrad(use, self.graph, parent.tensor) if place is None else SlicedGrad(use, place)
