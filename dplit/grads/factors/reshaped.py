"""Gradients of a reshaped parameter."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from dplit.grads.factors.base import FactoredGrad, inner
from dplit.grads.factors.units import Units


@dataclass(frozen=True)
class ReshapedGrad(FactoredGrad):
    """The gradient of p where d was applied, which holds the numbers of p in the same order under another shape."""

    wrapped: FactoredGrad
    """The gradient of d."""
    wrapped_shape: tuple[int, ...]
    """d's shape."""
    shape: tuple[int, ...]
    """p's shape."""

    @property
    def examples(self) -> int:
        return self.wrapped.examples

    @property
    def size(self) -> int:
        return self.wrapped.size

    def select(self, index: Tensor | slice) -> ReshapedGrad:
        return replace(self, wrapped=self.wrapped.select(index))

    def averaged(self, units: Units) -> ReshapedGrad:
        return replace(self, wrapped=self.wrapped.averaged(units))

    def dense(self) -> Tensor:
        return self.wrapped.dense().reshape(self.examples, *self.shape)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.wrapped.weighted_sum(weights).reshape(self.shape)

    def sq_norm(self) -> Tensor:
        return self.wrapped.sq_norm()

    def factors_sq_norm(self) -> Tensor | float:
        return self.wrapped.factors_sq_norm()

    @property
    def factors_size(self) -> int:
        return self.wrapped.factors_size

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, ReshapedGrad) and other.wrapped_shape == self.wrapped_shape:
            return inner(self.wrapped, other.wrapped)
        return None
