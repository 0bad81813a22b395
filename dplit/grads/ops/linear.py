"""Linear maps: `F.linear`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.autocast import narrowed
from dplit.grads.function import Recorded
from dplit.grads.gram import crossed, dearer, met, scaled
from dplit.grads.rules import rule
from dplit.grads.units import Units
from dplit.grads.use import DenseUse, Use, sq, wide

if TYPE_CHECKING:
    from dplit.grads.source import Source
    from dplit.grads.tape import Tape


ROOM = 3.0
"""Numbers of a kept gradient for each number of the activations and output gradients it takes the place of."""


@dataclass(frozen=True)
class LinearUse(Use):
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

    def select(self, index: Tensor | slice) -> LinearUse:
        return LinearUse(self.x[index], self.back[index])

    def together(self, units: Units) -> Use:
        return LinearUse(units.stacked(self.x), units.stacked(units.shared(self.back))).compact()

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
        return super().sq_norm() if self._costs_more(self.x.shape[1]) else crossed(self.x, self.back)

    def terms(self) -> Tensor:
        return (sq(self.x) * sq(self.back)).sum(1)

    def compact(self) -> Use:
        """Keep the gradients themselves where that is quicker and not much larger than what they come from."""
        kept = self.x.shape[1] * (self.x.shape[2] + self.back.shape[2])
        if self.x.shape[1] > 1 and self.size <= ROOM * kept and self._costs_more(self.x.shape[1]):
            return DenseUse(self.dense())
        return self

    def inner_with(self, other: Use) -> Tensor | None:
        if isinstance(other, LinearUse):
            t, s = self.x.shape[1], other.x.shape[1]
            return None if t > 1 < s and self._costs_more(t + s) else met(self.x, self.back, other.x, other.back)
        if isinstance(other, DenseUse):
            grads = other.grads.view(self.examples, self.back.shape[2], self.x.shape[2])
            return ((wide(self.back) @ wide(grads)) * wide(self.x)).sum((1, 2))
        return None

    def _costs_more(self, positions: int) -> bool:
        return dearer(positions, self.x.shape[2] + self.back.shape[2], self.size, self.x.device)


def added_up(uses: Sequence[Use]) -> Sequence[Use]:
    """Return the uses of one parameter, those of them as one whose gradients are cheaper to add up than to compare."""
    linear = [use for use in uses if isinstance(use, LinearUse)]
    cheaper = len(linear) > 1 and linear[0]._costs_more(sum(use.x.shape[1] for use in linear))
    kinds = (DenseUse, LinearUse) if cheaper else (DenseUse,)
    joined = [use for use in uses if isinstance(use, kinds)]
    if len(joined) < 2:
        return uses
    total = wide(joined[0].dense())
    for use in joined[1:]:
        total = total + wide(use.dense()).view(total.shape)
    return [DenseUse(total), *(use for use in uses if not isinstance(use, kinds))]


class _Linear(Recorded):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias = tape, tape.source(weight), tape.source(bias)
        ctx.save_for_backward(x if ctx.weight else None, weight if ctx.needs_input_grad[0] else None)
        out = F.linear(x, weight, bias)
        return torch.ops.aten._unsafe_view(out, out.shape) if out._is_view() else out  # may be written to in place

    @staticmethod
    def gradient(ctx: Any, saved: tuple[Any, ...], back: Tensor) -> Any:
        x, weight = saved
        record_linear(ctx.tape, ctx.weight, ctx.bias, x, back)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        rows = back.reshape(-1, back.shape[-1]) @ weight.to(back.dtype)  # one product, where `@` might copy the weight
        return rows.view(*back.shape[:-1], -1), None, None, None


def record_linear(tape: Tape, weight: Source | None, bias: Source | None, x: Tensor | None, back: Tensor) -> None:
    """Record y = x Wᵀ + b, examples outermost in both x and its output gradient."""
    back = back.detach().reshape(tape.examples, -1, back.shape[-1])
    if weight is not None and x is not None:
        tape.record(weight, LinearUse(x.detach().reshape(tape.examples, -1, x.shape[-1]), back))
    if bias is not None:
        summed = back[:, 0] if back.shape[1] == 1 else wide(back).sum(1)
        tape.record(bias, DenseUse(summed if bias.tensor.numel() > 1 else summed.sum(1, keepdim=True)))


@rule(F.linear, anywhere=True)
def linear(tape: Tape, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` with any number of leading dimensions."""
    tape.refuse_data(F.linear, weight, bias)
    return tape.outermost(
        F.linear, lambda x: _Linear.apply(narrowed(x), weight, bias, tape), input, weight, bias, over=1
    )
