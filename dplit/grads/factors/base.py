"""The algebra of one use of a parameter: what each example's gradient through it weighs, without building it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dplit.grads.factors.units import Units

LONG = 1 << 15
"""Longest vector whose squares are summed one after the other: beyond, float32 rounding would show."""
INSTANTIATED = 1 << 24
"""Most numbers of per-example gradient that exist at one time."""

ROUNDING = 8.0
"""Allowance for cancelled terms, in units of the compute type's epsilon: a norm is never under-stated by rounding."""


class FactoredGrad(ABC):
    """One use of a parameter of shape `s` by `n` examples; example i's gradient through it is gᵢ, of shape `s`.

    A parameter used k times has gᵢ = Σᵤ gᵢᵤ, so ‖gᵢ‖² = Σᵤ ‖gᵢᵤ‖² + 2 Σᵤ﹤ᵥ ⟨gᵢᵤ, gᵢᵥ⟩ needs the three methods
    `sq_norm`, `inner` and `weighted_sum` and nothing else.
    """

    @property
    @abstractmethod
    def examples(self) -> int:
        """n, the number of examples."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers in one example's gradient."""

    @abstractmethod
    def select(self, index: Tensor | slice) -> FactoredGrad:
        """Return the same use by a part of the examples only."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return all gᵢ, shape `(n, *s)`. Costs n times the parameter: see `chunks`."""

    @abstractmethod
    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return Σᵢ wᵢ gᵢ of shape `s`, from `(n,)` weights, in float32 or wider.

        A sum rounded to less would move by more than one example's share when one example comes or goes.
        """

    def add_weighted(self, total: Tensor, weights: Tensor) -> None:
        """Add Σᵢ wᵢ gᵢ to a tensor of shape `s`, in place."""
        total.add_(self.weighted_sum(weights).view(total.shape))

    def sq_norm(self) -> Tensor:
        """Return ‖gᵢ‖², shape `(n,)`, in float32 or wider, never below the true value by more than its rounding.

        What was built is no measure of the rounding in `weighted_sum`, where terms that cancel within an example are added
        up with the others'; hence the floor.
        """
        built, terms = torch.cat([sq(flat(part.dense())) for part in self.chunks()]), self.terms()
        return built if terms is None else at_least(built, terms)

    def terms(self) -> Tensor | None:
        """Return the sum of the squared norms of the terms that `weighted_sum` adds up for each example, `(n,)`.

        None where it adds up what `dense` returns.
        """
        return None

    def compact(self) -> FactoredGrad:
        """Return the same use in the form that costs least to keep."""
        return self

    def together(self, units: Units) -> FactoredGrad:
        """Return the use of the units that the examples make up: a unit's gradient is the mean of its examples'."""
        shares, total = units.shares, None
        for i, part in self._numbered():
            grads = wide(part.dense())
            of = units.of[i : i + part.examples]
            total = grads.new_zeros(units.count, *grads.shape[1:]) if total is None else total
            own = shares[i : i + part.examples].to(grads.dtype).view(-1, *[1] * (grads.dim() - 1))
            total.index_add_(0, of, grads * own)
        assert total is not None
        return DenseGrad(total)

    def _numbered(self) -> Iterator[tuple[int, FactoredGrad]]:
        start = 0
        for part in self.chunks():
            yield start, part
            start += part.examples

    def inner_with(self, other: FactoredGrad) -> Tensor | None:
        """Return ⟨gᵢ, hᵢ⟩ if this use knows a way that builds neither, else None."""
        return None

    def chunks(self, size: int | None = None) -> Iterator[FactoredGrad]:
        """Yield the use in runs of examples whose gradients, of `size` numbers each, may exist at one time."""
        step = max(1, INSTANTIATED // max(1, size or self.size))
        if step >= self.examples:
            yield self
            return
        for start in range(0, self.examples, step):
            yield self.select(slice(start, start + step))


@dataclass(frozen=True)
class DenseGrad(FactoredGrad):
    """Gradients that are cheap to keep as they are: biases, scales, norm weights."""

    grads: Tensor
    """`(n, *s)`"""

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
        return sq(flat(self.grads))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        grads = flat(self.grads)
        return (weights.to(grads.dtype) @ grads).view(self.grads.shape[1:])


def inner(a: FactoredGrad, b: FactoredGrad) -> Tensor:
    """Return ⟨gᵢ, hᵢ⟩, shape `(n,)`, of two uses of one parameter."""
    known = a.inner_with(b)
    if known is None:
        known = b.inner_with(a)
    if known is None:
        most = max(a.size, b.size)
        pairs = zip(a.chunks(most), b.chunks(most), strict=True)
        known = torch.cat([(flat(u.dense()) * flat(v.dense())).sum(1) for u, v in pairs])
    return known


def wide(x: Tensor) -> Tensor:
    """Return x in float32 or wider."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def sq(x: Tensor) -> Tensor:
    """Return squared L2 norms over the last dimension, in float32 or wider; long ones are summed pairwise."""
    x = wide(x)
    if x.shape[-1] > LONG:
        return x.square().sum(-1)
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms.square()


def at_least(computed: Tensor, terms: Tensor) -> Tensor:
    """Return a squared norm that rounding cannot have made too small.

    Args:
        computed: a sum in which large terms may have cancelled.
        terms: the sum of the terms' own squared norms, which bounds the rounding left by the cancellation.
    """
    return computed.clamp_min(0) + ROUNDING * torch.finfo(computed.dtype).eps * terms


def flat(grads: Tensor) -> Tensor:
    """Return `(n, *s)` gradients as `(n, numbers)`, in float32 or wider."""
    return wide(grads).reshape(grads.shape[0], math.prod(grads.shape[1:]))
