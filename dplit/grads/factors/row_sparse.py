"""Gradients of a table: only the rows that were looked up differ from zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.factors.base import MAX_INSTANTIATED, DenseGrad, FactoredGrad, flattened, rounded_up, sq_norms, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.units import Units


@dataclass(frozen=True)
class RowSparseGrad(FactoredGrad):
    """t look-ups in a table of v rows: gᵢ = Σₜ e(idᵢₜ) bᵢₜᵀ, of shape (v, d), never built.

    Only rows that were looked up differ from zero, so ‖gᵢ‖² = Σᵣ ‖Σₜ [idᵢₜ = r] bᵢₜ‖² = Σₜₛ [idᵢₜ = idᵢₛ] ⟨bᵢₜ, bᵢₛ⟩,
    which takes at most n·t·d numbers instead of n·v·d. The inner product with the gradient Σₛ cᵢₛ xᵢₛᵀ of a linear map by the
    same table (a tied head, y = x Wᵀ) is Σₜₛ ⟨bᵢₜ, xᵢₛ⟩ cᵢₛ[idᵢₜ]: a gather, never a v × d matrix.

    Source: Li et al. 2022, arXiv:2110.05679, section 4.
    """

    ids: Tensor
    """`(n, t)` row numbers."""
    back: Tensor
    """`(n, t, d)` output gradients."""
    rows: int
    """v."""

    @property
    def examples(self) -> int:
        return self.ids.shape[0]

    @property
    def size(self) -> int:
        return self.rows * self.back.shape[2]

    def factors_sq_norm(self) -> Tensor:
        return sq_norms(flattened(self.back))

    @property
    def factors_size(self) -> int:
        return self.back[:1].numel()

    def select(self, index: Tensor | slice) -> RowSparseGrad:
        return RowSparseGrad(self.ids[index], self.back[index], self.rows)

    def averaged(self, units: Units) -> RowSparseGrad:
        return RowSparseGrad(units.stacked(self.ids), units.stacked(units.times_share(self.back)), self.rows)

    def dense(self) -> Tensor:
        full = self.back.new_zeros(self.examples, self.rows, self.back.shape[2])
        return full.scatter_add_(1, self.ids[:, :, None].expand_as(self.back), self.back)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        total = wide(self.back).new_zeros(self.rows, self.back.shape[2])
        self.add_weighted(total, weights)
        return total

    def add_weighted(self, total: Tensor, weights: Tensor) -> None:
        scaled = wide(self.back) * weights.to(total.dtype)[:, None, None]
        total.view(self.rows, -1).index_add_(0, self.ids.flatten(), scaled.flatten(0, 1).to(total.dtype))

    def sq_norm(self) -> Tensor:
        terms = sq_norms(flattened(self.back))
        if self.ids.stride(0) == 0:
            looked_up, slot = self.ids[0].unique(return_inverse=True)
            if len(looked_up) == self.ids.shape[1]:
                return terms
            first_slot = torch.arange(self.examples, device=slot.device)[:, None] * len(looked_up)
            rows = self._sum_by_slot(self.examples * len(looked_up), slot + first_slot)
            return rounded_up(sq_norms(rows.view(self.examples, -1)), terms)
        first_row = torch.arange(self.examples, device=self.ids.device)[:, None] * self.rows
        looked_up, slot = (self.ids + first_row).unique(return_inverse=True)
        row_sq_norms = sq_norms(self._sum_by_slot(len(looked_up), slot))
        return rounded_up(terms.new_zeros(self.examples).index_add_(0, looked_up // self.rows, row_sq_norms), terms)

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, RowSparseGrad):
            step = self._step(other.ids.shape[1])
            runs = [slice(i, i + step) for i in range(0, self.examples, step)]
            return torch.cat([_inner_with_table(self.select(run), other.select(run)) for run in runs])
        if isinstance(other, DenseGrad):
            example = torch.arange(self.examples, device=self.ids.device)[:, None]
            looked_up = other.grads.view(self.examples, self.rows, -1)[example, self.ids]
            return (wide(looked_up) * wide(self.back)).sum((1, 2))
        if isinstance(other, OuterProductGrad):
            step = self._step(other.x.shape[1])
            runs = [slice(i, i + step) for i in range(0, self.examples, step)]
            return torch.cat([_inner_with_linear(self.select(run), other.select(run)) for run in runs])
        return None

    def _sum_by_slot(self, slots: int, slot: Tensor) -> Tensor:
        """Return `(slots, d)`: the sum of the output gradients of the positions in each slot; `slot` is `(n, t)`."""
        back = wide(self.back).flatten(0, 1)
        return back.new_zeros(slots, back.shape[1]).index_add_(0, slot.flatten(), back)

    def _step(self, positions: int) -> int:
        return max(1, MAX_INSTANTIATED // max(1, self.ids.shape[1] * positions))


def _inner_with_table(a: RowSparseGrad, b: RowSparseGrad) -> Tensor:
    same_row = a.ids[:, :, None] == b.ids[:, None, :]
    return (same_row * (wide(a.back) @ wide(b.back).mT)).sum((1, 2))


def _inner_with_linear(table: RowSparseGrad, head: OuterProductGrad) -> Tensor:
    products = wide(table.back) @ wide(head.x).mT
    ids = table.ids[:, :, None].expand(-1, -1, head.back.shape[1])
    return (products * wide(head.back).mT.gather(1, ids)).sum((1, 2))
