"""Gradients led back through the operation that computed a tensor from parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad
from dplit.grads.factors.units import Units


@dataclass(frozen=True)
class VjpGrad(FactoredGrad):
    """A use of d = f(p) seen from p: gᵢ(p) = Jᵀ gᵢ(d), each Jᵀ being one backward through f."""

    use: FactoredGrad
    graph: Tensor
    parent: Tensor

    @property
    def examples(self) -> int:
        return self.use.examples

    @property
    def size(self) -> int:
        return max(self.use.size, self.parent.numel())

    def select(self, index: Tensor | slice) -> VjpGrad:
        return VjpGrad(self.use.select(index), self.graph, self.parent)

    def together(self, units: Units) -> VjpGrad:
        return VjpGrad(self.use.together(units), self.graph, self.parent)

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
            own = DenseGrad(part.dense()).weighted_sum(weights[starts : starts + part.examples])
            total = own if total is None else total + own
            starts += part.examples
        assert total is not None
        return total

    def _backward(self, grads: Tensor, batched: bool, shape: tuple[int, ...]) -> Tensor:
        (found,) = torch.autograd.grad(
            self.graph, self.parent, grads, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        return self.parent.new_zeros(shape) if found is None else found.detach()
