"""Gradients of a linear map: sums of outer products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from dplit.grads.factors.base import DenseGrad, FactoredGrad, sq, wide
from dplit.grads.factors.ghost_norm import cross_inner, ghost_is_slower, ghost_sq_norm, scaled
from dplit.grads.factors.units import Units

if TYPE_CHECKING:
    pass


ROOM = 3.0
"""Numbers of a kept gradient for each number of the activations and output gradients it takes the place of."""


@dataclass(frozen=True)
class OuterProductGrad(FactoredGrad):
    """y = x Wᵀ at t positions: gᵢ = Σₜ bᵢₜ xᵢₜᵀ, of shape (p, d), never built where its norm is cheaper.

    ‖gᵢ‖² = Σₜₛ ⟨xᵢₜ, xᵢₛ⟩ ⟨bᵢₜ, bᵢₛ⟩ costs t²(d + p); building gᵢ costs t·d·p: the cheaper is taken.

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

    def together(self, units: Units) -> FactoredGrad:
        return OuterProductGrad(units.stacked(self.x), units.stacked(units.shared(self.back))).compact()

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
            return sq(self.x)[:, 0] * sq(self.back)[:, 0]
        return super().sq_norm() if self._costs_more(self.x.shape[1]) else ghost_sq_norm(self.x, self.back)

    def terms(self) -> Tensor:
        return (sq(self.x) * sq(self.back)).sum(1)

    def compact(self) -> FactoredGrad:
        """Keep the gradients themselves where that is quicker and not much larger than what they come from."""
        kept = self.x.shape[1] * (self.x.shape[2] + self.back.shape[2])
        if self.x.shape[1] > 1 and self.size <= ROOM * kept and self._costs_more(self.x.shape[1]):
            return DenseGrad(self.dense())
        return self

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, OuterProductGrad):
            t, s = self.x.shape[1], other.x.shape[1]
            return (
                None if t > 1 < s and self._costs_more(t + s) else cross_inner(self.x, self.back, other.x, other.back)
            )
        if isinstance(other, DenseGrad):
            grads = other.grads.view(self.examples, self.back.shape[2], self.x.shape[2])
            return ((wide(self.back) @ wide(grads)) * wide(self.x)).sum((1, 2))
        return None

    def _costs_more(self, positions: int) -> bool:
        return ghost_is_slower(positions, self.x.shape[2] + self.back.shape[2], self.size, self.x.device)


def added_up(uses: Sequence[FactoredGrad]) -> Sequence[FactoredGrad]:
    """Return the uses of one parameter, those of them as one whose gradients are cheaper to add up than to compare."""
    linear = [use for use in uses if isinstance(use, OuterProductGrad)]
    cheaper = len(linear) > 1 and linear[0]._costs_more(sum(use.x.shape[1] for use in linear))
    kinds = (DenseGrad, OuterProductGrad) if cheaper else (DenseGrad,)
    joined = [use for use in uses if isinstance(use, kinds)]
    if len(joined) < 2:
        return uses
    total = wide(joined[0].dense())
    for use in joined[1:]:
        total = total + wide(use.dense()).view(total.shape)
    return [DenseGrad(total), *(use for use in uses if not isinstance(use, kinds))]
