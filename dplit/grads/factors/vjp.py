"""Gradients pulled back through the operation that computed a tensor from parameters, by vector-Jacobian products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad, wide
from dplit.grads.factors.units import Units


@dataclass(frozen=True)
class VjpGrad(FactoredGrad):
    """The gradient of p where d = f(p) was applied: gᵢ(p) = Jᵀ gᵢ(d), each product with Jᵀ being one backward through f."""

    wrapped: FactoredGrad
    """The gradient of d."""
    attached: Tensor
    """d as computed, with its autograd graph."""
    parent: Tensor
    """p."""

    @property
    def examples(self) -> int:
        return self.wrapped.examples

    @property
    def size(self) -> int:
        return max(self.wrapped.size, self.parent.numel())

    def select(self, index: Tensor | slice) -> VjpGrad:
        return VjpGrad(self.wrapped.select(index), self.attached, self.parent)

    def factors_sq_norm(self) -> Tensor | float:
        return self.wrapped.factors_sq_norm()

    @property
    def factors_size(self) -> int:
        return self.wrapped.factors_size

    def averaged(self, units: Units) -> VjpGrad:
        return VjpGrad(self.wrapped.averaged(units), self.attached, self.parent)

    def dense(self) -> Tensor:
        grads = self.wrapped.dense().to(self.attached.dtype).view(self.examples, *self.attached.shape)
        return self._backward(grads, batched=True, shape=(self.examples, *self.parent.shape))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        if self._is_narrow() and self.examples:
            return _sum_of_built(self, self.size, weights)
        total = _sum_of_built(self.wrapped, self.size, weights).to(self.attached.dtype).view(self.attached.shape)
        return wide(self._backward(total, batched=False, shape=tuple(self.parent.shape)))

    def _is_narrow(self) -> bool:
        """Whether f computes in less than float32, where a whole sum would be rounded by more than one example's share."""
        return any(torch.promote_types(v.dtype, torch.float32) != v.dtype for v in (self.attached, self.parent))

    def _backward(self, grads: Tensor, batched: bool, shape: tuple[int, ...]) -> Tensor:
        (pulled_back,) = torch.autograd.grad(
            self.attached, self.parent, grads, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        return self.parent.new_zeros(shape) if pulled_back is None else pulled_back.detach().contiguous()


def _sum_of_built(grad: FactoredGrad, size: int, weights: Tensor) -> Tensor:
    """Return Σᵢ wᵢ gᵢ of the built gradients, of which the norms are taken too: the same terms cancel in both."""
    start, total = 0, None
    for part in grad.chunks(size):
        chunk = DenseGrad(part.dense()).weighted_sum(weights[start : start + part.examples])
        total = chunk if total is None else total + chunk
        start += part.examples
    assert total is not None
    return total
