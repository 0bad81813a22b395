"""Gradients of a linear map: sums of outer products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad, flattened, product, sq_norms, wide
from dplit.grads.factors.ghost_norm import cross_inner, ghost_is_slower, ghost_sq_norm, scaled
from dplit.grads.factors.units import Units

MAX_KEPT_RATIO = 3.0
"""Most numbers of a built gradient for each number of the activations and output gradients that it replaces, if kept."""


@dataclass(frozen=True)
class OuterProductGrad(FactoredGrad):
    """y = x Wᵀ at t positions: gᵢ = Σₜ bᵢₜ xᵢₜᵀ, of shape (p, d), never built where its norm is cheaper.

    ‖gᵢ‖² = Σₜₛ ⟨xᵢₜ, xᵢₛ⟩ ⟨bᵢₜ, bᵢₛ⟩ costs t²(d + p), building gᵢ costs t·d·p; the cheaper is done.

    Source: Goodfellow 2015, arXiv:1510.01799 (t = 1); Li et al. 2022, arXiv:2110.05679, section 4.
    """

    x: Tensor
    """`(n, t, d)` activations."""
    back: Tensor
    """`(n, t, p)` output gradients."""

    @property
    def examples(self) -> int:
        return self.x.shape[0]

    @property
    def size(self) -> int:
        return self.x.shape[2] * self.back.shape[2]

    def select(self, index: Tensor | slice) -> OuterProductGrad:
        return OuterProductGrad(self.x[index], self.back[index])

    def averaged(self, units: Units) -> FactoredGrad:
        return OuterProductGrad(units.stacked(self.x), units.stacked(units.times_share(self.back))).compact()

    def dense(self) -> Tensor:
        return wide(self.back).mT @ wide(self.x)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        if self.x.shape[2] <= self.back.shape[2]:
            x, back = scaled(self.x, weights), wide(self.back)
        else:
            x, back = wide(self.x), scaled(self.back, weights)
        return back.flatten(0, 1).T @ x.flatten(0, 1)

    def sq_norm(self) -> Tensor:
        if self.x.shape[1] == 1:
            return product(sq_norms(self.x)[:, 0], sq_norms(self.back)[:, 0])
        return super().sq_norm() if self._ghost_is_slower(self.x.shape[1]) else ghost_sq_norm(self.x, self.back)

    def terms_sq_norm(self) -> Tensor:
        return product(sq_norms(self.x), sq_norms(self.back)).sum(1)

    def factors_sq_norm(self) -> Tensor:
        return sq_norms(flattened(self.x)) + sq_norms(flattened(self.back))

    @property
    def factors_size(self) -> int:
        return self.x.shape[1] * (self.x.shape[2] + self.back.shape[2])

    def compact(self) -> FactoredGrad:
        """Build the gradients now where that is quicker and they are not much larger than what they are built from."""
        kept = self.x.shape[1] * (self.x.shape[2] + self.back.shape[2])
        if self.x.shape[1] > 1 and self.size <= MAX_KEPT_RATIO * kept and self._ghost_is_slower(self.x.shape[1]):
            return DenseGrad(self.dense())
        return self

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, OuterProductGrad):
            t, s = self.x.shape[1], other.x.shape[1]
            if t > 1 < s and self._ghost_is_slower(t + s):
                return None
            return cross_inner(self.x, self.back, other.x, other.back)
        if isinstance(other, DenseGrad):
            grads = other.grads.view(self.examples, self.back.shape[2], self.x.shape[2])
            return ((wide(self.back) @ wide(grads)) * wide(self.x)).sum((1, 2))
        return None

    def _ghost_is_slower(self, positions: int) -> bool:
        return ghost_is_slower(positions, self.x.shape[2] + self.back.shape[2], self.size, self.x.device)


def merged_where_cheaper(grads: Sequence[FactoredGrad]) -> Sequence[FactoredGrad]:
    """Return the gradients of one parameter, after adding up those that are cheaper to build and add than to compare.

    Comparing means the inner products of all pairs of them, which the norm of their sum needs.
    """
    linear = [grad for grad in grads if isinstance(grad, OuterProductGrad)]
    cheaper = len(linear) > 1 and linear[0]._ghost_is_slower(sum(grad.x.shape[1] for grad in linear))
    kinds = (DenseGrad, OuterProductGrad) if cheaper else (DenseGrad,)
    addable = [grad for grad in grads if isinstance(grad, kinds)]
    if len(addable) < 2:
        return grads
    total = wide(addable[0].dense())
    for grad in addable[1:]:
        total = total + wide(grad.dense()).view(total.shape)
    return [DenseGrad(total), *(grad for grad in grads if not isinstance(grad, kinds))]
