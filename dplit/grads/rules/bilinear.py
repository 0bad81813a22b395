"""Bilinear maps: `F.bilinear`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.grads.factors.base import (
    MAX_INSTANTIATED,
    FactoredGrad,
    flattened,
    product,
    rounded_up,
    sq_norms,
    underflow,
    wide,
)
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.rules.linear import record_linear
from dplit.grads.tape.recorded_function import Context, RecordedFunction
from dplit.grads.tape.registry import rule
from dplit.grads.types import InputGradients

if TYPE_CHECKING:
    from dplit.grads.tape.tape import Tape


@dataclass(frozen=True)
class BilinearGrad(FactoredGrad):
    """y = xᵀ W z at t positions: gᵢ = Σₜ bᵢₜ ⊗ xᵢₜ ⊗ zᵢₜ, of shape (p, d, e), never built where its norm is cheaper.

    It is a linear map of x ⊗ z, so ‖gᵢ‖² = Σₜₛ ⟨xᵢₜ, xᵢₛ⟩ ⟨zᵢₜ, zᵢₛ⟩ ⟨bᵢₜ, bᵢₛ⟩.

    Source: Li et al. 2022, arXiv:2110.05679, section 4, for the linear map.
    """

    x: Tensor
    """`(n, t, d)` first activations."""
    z: Tensor
    """`(n, t, e)` second activations."""
    back: Tensor
    """`(n, t, p)` output gradients."""

    @property
    def examples(self) -> int:
        return self.x.shape[0]

    @property
    def size(self) -> int:
        return self.x.shape[2] * self.z.shape[2] * self.back.shape[2]

    def select(self, index: Tensor | slice) -> BilinearGrad:
        return BilinearGrad(self.x[index], self.z[index], self.back[index])

    def dense(self) -> Tensor:
        return self._linear().dense().view(self.examples, -1, self.x.shape[2], self.z.shape[2])

    def weighted_sum(self, weights: Tensor) -> Tensor:
        step = _step(self.x.shape[1] * self.x.shape[2] * self.z.shape[2])
        total = wide(self.x).new_zeros(self.back.shape[2], self.x.shape[2] * self.z.shape[2])
        for i in range(0, self.examples, step):
            total += self.select(slice(i, i + step))._linear().weighted_sum(weights[i : i + step])
        return total.view(-1, self.x.shape[2], self.z.shape[2])

    def sq_norm(self) -> Tensor:
        (n, t, d), e, p = self.x.shape, self.z.shape[2], self.back.shape[2]
        if t * (d + e + p) >= self.size:
            return super().sq_norm()
        step = _step(t * t)
        return torch.cat([self.select(slice(i, i + step))._ghost_norm() for i in range(0, n, step)])

    def _ghost_norm(self) -> Tensor:
        grams = [wide(v) @ wide(v).mT for v in (self.x, self.z, self.back)]
        gram_product = torch.stack(grams).prod(0).sum((1, 2))
        return rounded_up(gram_product, self.terms_sq_norm()) + underflow(self.factors_size, self.factors_sq_norm())

    def terms_sq_norm(self) -> Tensor:
        return product(*(sq_norms(v) for v in (self.x, self.z, self.back))).sum(1)

    def factors_sq_norm(self) -> Tensor:
        """Return their sum, and the products of two: what one Gram matrix loses is multiplied by both others."""
        x, z, back = (sq_norms(flattened(v)) for v in (self.x, self.z, self.back))
        return x + z + back + product(x, z) + product(x, back) + product(z, back)

    @property
    def factors_size(self) -> int:
        return sum(v[:1].numel() for v in (self.x, self.z, self.back))

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        if not isinstance(other, BilinearGrad) or self.x.shape[1] * other.x.shape[1] * self.examples > MAX_INSTANTIATED:
            return None
        pairs = zip((self.x, self.z, self.back), (other.x, other.z, other.back), strict=True)
        return torch.stack([wide(u) @ wide(v).mT for u, v in pairs]).prod(0).sum((1, 2))

    def _linear(self) -> OuterProductGrad:
        return OuterProductGrad((wide(self.x)[..., None] * wide(self.z)[..., None, :]).flatten(2), self.back)


def _step(size: int) -> int:
    return max(1, MAX_INSTANTIATED // max(1, size))


class _Bilinear(RecordedFunction):
    @staticmethod
    def forward(ctx: Context, x: Tensor, z: Tensor, weight: Tensor, bias: Tensor | None, tape: Tape) -> Tensor:
        ctx.tape, ctx.weight, ctx.bias = tape, tape.tracked(weight), tape.tracked(bias)
        ctx.save_for_backward(x, z, weight)
        return F.bilinear(x, z, weight, bias)

    @staticmethod
    def gradient(ctx: Context, saved: tuple[Tensor, ...], back: Tensor) -> InputGradients:
        (x, z, weight), n = saved, ctx.tape.examples
        record_linear(ctx.tape, None, ctx.bias, None, back)
        if ctx.weight is not None:
            x_rows, z_rows, back_rows = (v.detach().reshape(n, -1, v.shape[-1]) for v in (x, z, back))
            ctx.tape.record(ctx.weight, BilinearGrad(x_rows, z_rows, back_rows))
        input_grads: list[Tensor | None] = [None, None]
        operands = ((x, z, "...p,pde,...e->...d"), (z, x, "...p,pde,...d->...e"))
        for i, (operand, other, equation) in enumerate(operands):
            if ctx.needs_input_grad[i]:
                grad = torch.einsum(equation, back, weight.to(back.dtype), other.to(back.dtype))
                input_grads[i] = grad.to(operand.dtype)
        return *input_grads, None, None, None


@rule(F.bilinear)
def bilinear(tape: Tape, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.bilinear` of two activations.

    Raises:
        UnsupportedOperation: one of them does not have the examples outermost, or a weight is computed from data.
    """
    tape.check_outermost(F.bilinear, input1, weight, bias)
    tape.check_outermost(F.bilinear, input2, weight, bias)
    tape.refuse_data(F.bilinear, weight, bias)
    return _Bilinear.apply(input1, input2, weight, bias, tape)
