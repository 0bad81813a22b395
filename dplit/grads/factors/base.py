"""What a gradient kept in factors can do: its norms, inner products and sums, without being built."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.factors.units import Units

LONGEST_VECTOR = 1 << 15
"""Longest vector whose squares are summed one after the other; in longer ones float32 rounding would show."""

MAX_INSTANTIATED = 1 << 24
"""Most numbers of per-example gradients that exist at one time."""

ROUNDING = 8.0
"""Allowance for cancelled terms, in units of the compute type's epsilon: rounding never makes a norm too small."""


class FactoredGrad(ABC):
    """The gradient gᵢ of each of n examples through one application of a parameter of shape `s`, kept in factors.

    A parameter applied k times has gᵢ = Σᵤ gᵢᵤ, so ‖gᵢ‖² = Σᵤ ‖gᵢᵤ‖² + 2 Σᵤ﹤ᵥ ⟨gᵢᵤ, gᵢᵥ⟩: all that is needed are the
    squared norm (`sq_norm`), the inner product (`inner`) and the weighted sum over examples (`weighted_sum`).
    """

    @property
    @abstractmethod
    def examples(self) -> int:
        """n, the number of examples."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers one example's gradient has."""

    @abstractmethod
    def select(self, index: Tensor | slice) -> FactoredGrad:
        """Return the gradients of some of the examples only."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return all gᵢ, shape `(n, *s)`. Costs n times the memory of the parameter: see `chunks`."""

    @abstractmethod
    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return Σᵢ wᵢ gᵢ of shape `s`, from `(n,)` weights, in float32 or wider.

        In a narrower type, rounding would move the sum by more than one example's share when one example comes or goes.
        """

    def add_weighted(self, total: Tensor, weights: Tensor) -> None:
        """Add Σᵢ wᵢ gᵢ to a tensor of shape `s`, in place."""
        total.add_(self.weighted_sum(weights).view(total.shape))

    def sq_norm(self) -> Tensor:
        """Return ‖gᵢ‖², shape `(n,)`, in float32 or wider, never below the true value by more than its rounding.

        Squares and products that underflow are allowed for, so that it is above 0 even where all factors are zero.

        The built gradient alone does not bound the rounding of `weighted_sum`, which adds up terms that cancel within
        an example together with those of the other examples; hence the allowance of `rounded_up`.
        """
        built = torch.cat([sq_norms(flattened(part.dense())) for part in self.chunks()])
        terms = self.terms_sq_norm()
        return built if terms is None else rounded_up(built, terms)

    def terms_sq_norm(self) -> Tensor | None:
        """Return the sum of the squared norms of the terms that `weighted_sum` adds up for each example, `(n,)`.

        None where `weighted_sum` adds up what `dense` returns.
        """
        return None

    def factors_sq_norm(self) -> Tensor | float:
        """Return the sum of the squares of all numbers that each example's gradient is kept in, `(n,)`; 0 if it is built."""
        return 0.0

    @property
    def factors_size(self) -> int:
        """How many numbers one example's gradient is kept in; 0 if it is built."""
        return 0

    def compact(self) -> FactoredGrad:
        """Return the same gradients in the form that costs least to keep."""
        return self

    def averaged(self, units: Units) -> FactoredGrad:
        """Return the gradients of the units that the examples make up: a unit's is the mean of its examples'."""
        total, start = None, 0
        for part in self.chunks():
            grads, chunk = wide(part.dense()), slice(start, start + part.examples)
            if total is None:
                total = grads.new_zeros(units.count, *grads.shape[1:])
            shares = units.shares[chunk].to(grads.dtype).view(-1, *[1] * (grads.dim() - 1))
            total.index_add_(0, units.of[chunk], grads * shares)
            start += part.examples
        assert total is not None
        return DenseGrad(total)

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        """Return ⟨gᵢ, hᵢ⟩, shape `(n,)`, if this class knows a way that builds neither; else None."""
        return None

    def chunks(self, size: int | None = None) -> Iterator[FactoredGrad]:
        """Yield runs of consecutive examples that are short enough to be built, given `size` numbers an example."""
        step = max(1, MAX_INSTANTIATED // max(1, size or self.size))
        if step >= self.examples:
            yield self
            return
        for start in range(0, self.examples, step):
            yield self.select(slice(start, start + step))


@dataclass(frozen=True)
class DenseGrad(FactoredGrad):
    """Gradients that are cheap to keep as they are: of biases, scales and norm weights."""

    grads: Tensor
    """`(n, *s)`, real or complex"""

    @property
    def examples(self) -> int:
        return self.grads.shape[0]

    @property
    def size(self) -> int:
        return self.grads[:1].numel() if self.examples else 0

    def select(self, index: Tensor | slice) -> DenseGrad:
        return DenseGrad(self.grads[index])

    def dense(self) -> Tensor:
        return self.grads

    def sq_norm(self) -> Tensor:
        return sq_norms(flattened(self.grads))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        grads = flattened(self.grads)
        total, shape = weights.to(grads.dtype) @ grads, self.grads.shape[1:]
        return torch.view_as_complex(total.view(*shape, 2)) if self.grads.is_complex() else total.view(shape)


def inner(a: FactoredGrad, b: FactoredGrad) -> Tensor:
    """Return ⟨gᵢ, hᵢ⟩, shape `(n,)`, of two gradients of one parameter; builds them only if neither knows a better way."""
    products = a.inner_with(b)
    if products is None:
        products = b.inner_with(a)
    if products is None:
        size = max(a.size, b.size)
        pairs = zip(a.chunks(size), b.chunks(size), strict=True)
        products = torch.cat([(flattened(u.dense()) * flattened(v.dense())).sum(1) for u, v in pairs])
    return products


def wide(x: Tensor) -> Tensor:
    """Return x in float32 or wider."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def sq_norms(x: Tensor) -> Tensor:
    """Return squared L2 norms over the last dimension, in float32 or wider; long vectors are summed pairwise.

    What squares that underflow may have lost is added, so that a product with another squared norm is not too small.
    """
    x = wide(x)
    lost = x.shape[-1] * torch.finfo(x.dtype).tiny
    if x.shape[-1] > LONGEST_VECTOR:
        return x.square().sum(-1).add_(lost)
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms.square_().add_(lost)


def product(*sq: Tensor) -> Tensor:
    """Return the product of squared norms, not too small by underflow."""
    total = sq[0]
    for other in sq[1:]:
        total = (total * other).add_(torch.finfo(total.dtype).tiny)
    return total


def underflow(numbers: int, sq_norm: Tensor) -> Tensor:
    """Return the most that underflow takes from a sum of products of inner products, such as Σₜₛ ⟨xₜ, xₛ⟩ ⟨bₜ, bₛ⟩.

    Each of the d multiplications and additions of ⟨xₜ, xₛ⟩ may lose the smallest normal number, which is then multiplied
    by ⟨bₜ, bₛ⟩; and Σₜₛ |⟨bₜ, bₛ⟩| ≤ t Σₜ ‖bₜ‖². The same holds with x and b exchanged. For ordinary numbers this is nothing:
    1e-26 for a million numbers of size 1.

    Args:
        numbers: how many numbers x and b are, t·(d + p).
        sq_norm: `(n,)` the sum of their squares.
    """
    return (sq_norm + numbers) * (4 * numbers * torch.finfo(sq_norm.dtype).tiny)


def rounded_up(computed: Tensor, terms: Tensor) -> Tensor:
    """Return a squared norm that rounding cannot have made too small.

    Args:
        computed: a sum in which large terms may have cancelled.
        terms: the sum of the terms' own squared norms, which bounds the rounding left by the cancellation.
    """
    return computed.clamp_min(0) + ROUNDING * torch.finfo(computed.dtype).eps * terms


def flattened(grads: Tensor) -> Tensor:
    """Return `(n, *s)` gradients as `(n, numbers)`, in float32 or wider; a complex number is two numbers."""
    real = torch.view_as_real(grads.resolve_conj()) if grads.is_complex() else wide(grads)
    return real.reshape(grads.shape[0], math.prod(real.shape[1:]))
