"""Gradients of a table: only the rows that were looked up differ from zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dplit.grads.factors.base import INSTANTIATED, DenseGrad, FactoredGrad, at_least, flat, sq, wide
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.units import Units

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class RowSparseGrad(FactoredGrad):
    """t look-ups in a table of v rows: gᵢ = Σₜ e(idᵢₜ) bᵢₜᵀ, of shape (v, d), never built.

    Only rows that were looked up differ from zero, so ‖gᵢ‖² = Σᵣ ‖Σₜ [idᵢₜ = r] bᵢₜ‖² = Σₜₛ [idᵢₜ = idᵢₛ] ⟨bᵢₜ, bᵢₛ⟩:
    at most n·t·d numbers instead of n·v·d. Against a linear use of the same table (a tied head, y = x Wᵀ) the inner
    product is Σₜₛ ⟨bᵢₜ, xᵢₛ⟩ back'ᵢₛ[idᵢₜ], a gather, never v × d.

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

    def select(self, index: Tensor | slice) -> RowSparseGrad:
        return RowSparseGrad(self.ids[index], self.back[index], self.rows)

    def together(self, units: Units) -> RowSparseGrad:
        return RowSparseGrad(units.stacked(self.ids), units.stacked(units.shared(self.back)), self.rows)

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
        terms = sq(flat(self.back))
        if self.ids.stride(0) == 0:
            met, slot = self.ids[0].unique(return_inverse=True)
            if len(met) == self.ids.shape[1]:
                return terms
            each = torch.arange(self.examples, device=slot.device)[:, None] * len(met)
            rows = self._add(self.examples * len(met), slot + each)
            return at_least(sq(rows.view(self.examples, -1)), terms)
        each = torch.arange(self.examples, device=self.ids.device)[:, None] * self.rows
        met, slot = (self.ids + each).unique(return_inverse=True)
        own = terms.new_zeros(self.examples).index_add_(0, met // self.rows, sq(self._add(len(met), slot)))
        return at_least(own, terms)

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if isinstance(other, RowSparseGrad):
            parts = zip(self._pieces(other.ids.shape[1]), other._pieces(self.ids.shape[1]), strict=True)
            return torch.cat([(_agree(a.ids, b.ids) * (wide(a.back) @ wide(b.back).mT)).sum((1, 2)) for a, b in parts])
        if isinstance(other, DenseGrad):
            each = torch.arange(self.examples, device=self.ids.device)[:, None]
            met = other.grads.view(self.examples, self.rows, -1)[each, self.ids]
            return (wide(met) * wide(self.back)).sum((1, 2))
        if isinstance(other, OuterProductGrad):
            step = self._step(other.x.shape[1])
            return torch.cat(
                [
                    _inner_with_linear(self.select(slice(i, i + step)), other.select(slice(i, i + step)))
                    for i in range(0, self.examples, step)
                ]
            )
        return None

    def _add(self, rows: int, slot: Tensor) -> Tensor:
        """Add up the output gradients of positions by the row that each has in a shorter table."""
        back = wide(self.back).flatten(0, 1)
        return back.new_zeros(rows, back.shape[1]).index_add_(0, slot.flatten(), back)

    def _step(self, positions: int) -> int:
        return max(1, INSTANTIATED // max(1, self.ids.shape[1] * positions))

    def _pieces(self, positions: int) -> list[RowSparseGrad]:
        step = self._step(positions)
        return [self.select(slice(i, i + step)) for i in range(0, self.examples, step)]


def _agree(a: Tensor, b: Tensor) -> Tensor:
    return a[:, :, None] == b[:, None, :]


def _inner_with_linear(table: RowSparseGrad, head: OuterProductGrad) -> Tensor:
    met = wide(table.back) @ wide(head.x).mT
    ids = table.ids[:, :, None].expand(-1, -1, head.back.shape[1])
    return (met * wide(head.back).mT.gather(1, ids)).sum((1, 2))
