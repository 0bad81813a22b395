"""Linear maps: `F.linear`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.autocast import narrowed
from dplit.grads.per_example import at_least
from dplit.grads.rules import rule
from dplit.grads.use import INSTANTIATED, DenseUse, Use, sq, wide

if TYPE_CHECKING:
    from dplit.grads.source import Source
    from dplit.grads.tape import Tape


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

    def dense(self) -> Tensor:
        return wide(self.back).mT @ wide(self.x)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        back = wide(self.back)
        scaled = back * weights.to(back.dtype)[:, None, None]
        return scaled.flatten(0, 1).T @ wide(self.x).flatten(0, 1)

    def sq_norm(self) -> Tensor:
        n, t, d = self.x.shape
        if t == 1:
            return sq(self.x)[:, 0] * sq(self.back)[:, 0]
        if t * (d + self.back.shape[2]) >= self.size:
            return super().sq_norm()
        step = max(1, INSTANTIATED // (t * t))
        return torch.cat([self.select(slice(i, i + step))._ghost_norm() for i in range(0, n, step)])

    def _ghost_norm(self) -> Tensor:
        x, back = wide(self.x), wide(self.back)
        crossed = ((x @ x.mT) * (back @ back.mT)).sum((1, 2))
        return at_least(crossed, (sq(x) * sq(back)).sum(1))

    def inner_with(self, other: Use) -> Tensor | None:
        if not isinstance(other, LinearUse):
            return None
        grams = zip(
            torch.split(self.x, self._step(other)),
            torch.split(self.back, self._step(other)),
            torch.split(other.x, self._step(other)),
            torch.split(other.back, self._step(other)),
            strict=True,
        )
        return torch.cat([((wide(x) @ wide(u).mT) * (wide(b) @ wide(v).mT)).sum((1, 2)) for x, b, u, v in grams])

    def _step(self, other: LinearUse) -> int:
        return max(1, INSTANTIATED // (self.x.shape[1] * other.x.shape[1]))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias = tape, tape.source(weight), tape.source(bias)
        ctx.save_for_backward(x if ctx.weight else None, weight if ctx.needs_input_grad[0] else None)
        out = F.linear(x, weight, bias)
        return torch.ops.aten._unsafe_view(out, out.shape) if out._is_view() else out  # may be written to in place

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (back,) = grads
        x, weight = ctx.saved_tensors
        record_linear(ctx.tape, ctx.weight, ctx.bias, x, back)
        return (back @ weight.to(back.dtype) if ctx.needs_input_grad[0] else None), None, None, None


def record_linear(tape: Tape, weight: Source | None, bias: Source | None, x: Tensor | None, back: Tensor) -> None:
    """Record y = x Wᵀ + b, examples outermost in both x and its output gradient."""
    back = back.detach().reshape(tape.examples, -1, back.shape[-1])
    if weight is not None and x is not None:
        tape.record(weight, LinearUse(x.detach().reshape(tape.examples, -1, x.shape[-1]), back))
    if bias is not None:
        summed = back[:, 0] if back.shape[1] == 1 else wide(back).sum(1)
        tape.record(bias, DenseUse(summed if bias.tensor.numel() > 1 else summed.sum(1, keepdim=True)))


@rule(F.linear)
def linear(tape: Tape, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` with any number of leading dimensions."""
    tape.by_example(F.linear, input, weight, bias)
    tape.refuse_data(F.linear, weight, bias)
    return _Linear.apply(narrowed(input), weight, bias, tape)  # type: ignore[no-any-return]
