"""Table look-ups: `F.embedding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.function import Recorded
from dplit.grads.ops.linear import LinearUse
from dplit.grads.rules import pull, rule
from dplit.grads.units import Units
from dplit.grads.use import INSTANTIATED, AlignedUse, DenseUse, Use, at_least, flat, sq, wide

if TYPE_CHECKING:
    from dplit.grads.source import Derived
    from dplit.grads.tape import Tape


@dataclass(frozen=True)
class EmbeddingUse(Use):
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

    def select(self, index: Tensor | slice) -> EmbeddingUse:
        return EmbeddingUse(self.ids[index], self.back[index], self.rows)

    def together(self, units: Units) -> EmbeddingUse:
        return EmbeddingUse(units.stacked(self.ids), units.stacked(units.shared(self.back)), self.rows)

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

    def inner_with(self, other: Use) -> Tensor | None:
        if isinstance(other, EmbeddingUse):
            parts = zip(self._pieces(other.ids.shape[1]), other._pieces(self.ids.shape[1]), strict=True)
            return torch.cat([(_agree(a.ids, b.ids) * (wide(a.back) @ wide(b.back).mT)).sum((1, 2)) for a, b in parts])
        if isinstance(other, DenseUse):
            each = torch.arange(self.examples, device=self.ids.device)[:, None]
            met = other.grads.view(self.examples, self.rows, -1)[each, self.ids]
            return (wide(met) * wide(self.back)).sum((1, 2))
        if isinstance(other, LinearUse):
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

    def _pieces(self, positions: int) -> list[EmbeddingUse]:
        step = self._step(positions)
        return [self.select(slice(i, i + step)) for i in range(0, self.examples, step)]


def _agree(a: Tensor, b: Tensor) -> Tensor:
    return a[:, :, None] == b[:, None, :]


def _inner_with_linear(table: EmbeddingUse, head: LinearUse) -> Tensor:
    met = wide(table.back) @ wide(head.x).mT
    ids = table.ids[:, :, None].expand(-1, -1, head.back.shape[1])
    return (met * wide(head.back).mT.gather(1, ids)).sum((1, 2))


class _Embedding(Recorded):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.rows, ctx.padding = tape, tape.source(weight), weight.shape[0], padding
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        (ids,) = saved
        n = ctx.tape.examples
        back = back.detach()
        if ctx.padding is not None:
            back = back.masked_fill((ids == ctx.padding)[..., None], 0)
        ctx.tape.record(ctx.weight, EmbeddingUse(ids.reshape(n, -1), back.reshape(n, -1, back.shape[-1]), ctx.rows))
        return None, None, None, None


@rule(F.embedding, always=True, anywhere=True)
def embedding(
    tape: Tape,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`F.embedding` with `padding_idx`, of ids per example or of one row of ids for all of them.

    Raises:
        UnsupportedOperation: `max_norm` (it rewrites the table as it reads) or `scale_grad_by_freq` (it counts ids
            over the batch, which couples examples).
    """
    if max_norm is not None or scale_grad_by_freq:
        why = "rewrites the table with max_norm" if max_norm is not None else "couples examples by scale_grad_by_freq"
        raise tape.refusal(F.embedding, (weight,), f"{why}; leave that option out")
    padding = None if padding_idx is None else padding_idx % weight.shape[0]
    shared = tape.examples > 1 and (input.dim() == 0 or input.shape[0] == 1)
    if shared or tape.is_constant(input):
        return tape.derive(F.embedding, (input, weight, padding), {})  # type: ignore[no-any-return]
    return tape.outermost(F.embedding, lambda ids: _Embedding.apply(ids, weight, padding, tape), input, weight)


@pull(F.embedding)
def looked_up(derived: Derived, use: Use) -> Use | None:
    """Rows looked up by constant ids and used by all examples (position tables): a look-up by each example."""
    ids, padding = derived.args[0], (*derived.args, None, None, None)[2]
    if padding is None:
        padding = derived.kwargs.get("padding_idx")
    padding = None if padding is None else padding % derived.parents[0].tensor.shape[0]
    rows = derived.parents[0].tensor.shape[0]
    n = use.examples
    if isinstance(use, DenseUse):
        ids = ids.reshape(1, -1).expand(n, -1)
    elif isinstance(use, AlignedUse):
        ids = ids.reshape(ids.shape[0], -1)[use.rows]
    else:
        return None
    back = use.grads.reshape(n, ids.shape[1], -1)
    if padding is not None:
        back = back.masked_fill((ids == padding)[..., None], 0)
    return EmbeddingUse(ids, back, rows)
