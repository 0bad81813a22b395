"""Gradients of a reshaped parameter."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, inner
from dplit.grads.factors.units import Units


@dataclass(frozen=True)
class ReshapedGrad(FactoredGrad):
    """A use of d seen from p, where d holds the numbers of p in the same order under another shape."""

    use: FactoredGrad
    seen: tuple[int, ...]
    """d's shape."""
    shape: tuple[int, ...]
    """p's shape."""

    @property
    def examples(self) -> int:
        return self.use.examples

    @property
    def size(self) -> int:
        return self.use.size

    def select(self, index: Tensor | slice) -> ReshapedGrad:
        return replace(self, use=self.use.select(index))

    def together(self, units: Units) -> ReshapedGrad:
        return replace(self, use=self.use.together(units))

    def dense(self) -> Tensor:
        return self.use.dense().reshape(self.examples, *self.shape)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.use.weighted_sum(weights).reshape(self.shape)

    def sq_norm(self) -> Tensor:
        return self.use.sq_norm()

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, ReshapedGrad) and other.seen == self.seen:
            return inner(self.use, other.use)
        return None
