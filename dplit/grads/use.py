"""The algebra of one use of a parameter: what each example's gradient through it weighs, without building it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dplit.grads.units import Units

LONG = 1 << 15
"""Longest vector whose squares are summed one after the other: beyond, float32 rounding would show."""
INSTANTIATED = 1 << 24
"""Most numbers of per-example gradient that exist at one time."""

ROUNDING = 8.0
"""Allowance for cancelled terms, in units of the compute type's epsilon: a norm is never under-stated by rounding."""


class Use(ABC):
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
    def select(self, index: Tensor | slice) -> Use:
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

    def compact(self) -> Use:
        """Return the same use in the form that costs least to keep."""
        return self

    def together(self, units: Units) -> Use:
        """Return the use of the units that the examples make up: a unit's gradient is the mean of its examples'."""
        shares, total = units.shares, None
        for i, part in self._numbered():
            grads = wide(part.dense())
            of = units.of[i : i + part.examples]
            total = grads.new_zeros(units.count, *grads.shape[1:]) if total is None else total
            own = shares[i : i + part.examples].to(grads.dtype).view(-1, *[1] * (grads.dim() - 1))
            total.index_add_(0, of, grads * own)
        assert total is not None
        return DenseUse(total)

    def _numbered(self) -> Iterator[tuple[int, Use]]:
        start = 0
        for part in self.chunks():
            yield start, part
            start += part.examples

    def inner_with(self, other: Use) -> Tensor | None:
        """Return ⟨gᵢ, hᵢ⟩ if this use knows a way that builds neither, else None."""
        return None

    def chunks(self, size: int | None = None) -> Iterator[Use]:
        """Yield the use in runs of examples whose gradients, of `size` numbers each, may exist at one time."""
        step = max(1, INSTANTIATED // max(1, size or self.size))
        if step >= self.examples:
            yield self
            return
        for start in range(0, self.examples, step):
            yield self.select(slice(start, start + step))


def inner(a: Use, b: Use) -> Tensor:
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


@dataclass(frozen=True)
class DenseUse(Use):
    """Gradients that are cheap to keep as they are: biases, scales, norm weights."""

    grads: Tensor
    """`(n, *s)`"""

    @property
    def examples(self) -> int:
        return self.grads.shape[0]

    @property
    def size(self) -> int:
        return self.grads[:1].numel() if self.examples else 0

    def select(self, index: Tensor | slice) -> DenseUse:
        return DenseUse(self.grads[index])

    def dense(self) -> Tensor:
        return self.grads

    def sq_norm(self) -> Tensor:
        return sq(flat(self.grads))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        grads = flat(self.grads)
        return (weights.to(grads.dtype) @ grads).view(self.grads.shape[1:])


@dataclass(frozen=True)
class AlignedUse(Use):
    """A tensor with one row per example, gᵢ being zero outside row i: n rows stand for n × n of them."""

    grads: Tensor
    """`(n, *s[1:])`: row i of gᵢ."""
    rows: Tensor
    """`(n,)`: which row of the parameter each of them is."""
    length: int
    """s[0], the number of rows the parameter has."""

    @property
    def examples(self) -> int:
        return self.grads.shape[0]

    @property
    def size(self) -> int:
        return self.length * self.grads[:1].numel()

    def select(self, index: Tensor | slice) -> AlignedUse:
        return AlignedUse(self.grads[index], self.rows[index], self.length)

    def dense(self) -> Tensor:
        full = self.grads.new_zeros(self.examples, self.length, *self.grads.shape[1:])
        full[torch.arange(self.examples, device=full.device), self.rows] = self.grads
        return full

    def sq_norm(self) -> Tensor:
        return sq(flat(self.grads))

    def inner_with(self, other: Use) -> Tensor | None:
        if isinstance(other, AlignedUse):
            return (flat(self.grads) * flat(other.grads)).sum(1)
        return None

    def weighted_sum(self, weights: Tensor) -> Tensor:
        grads = wide(self.grads)
        scaled = grads * weights.to(grads.dtype).view(-1, *[1] * (grads.dim() - 1))
        total = scaled.new_zeros(self.length, *self.grads.shape[1:])
        return total.index_add_(0, self.rows, scaled)


@dataclass(frozen=True)
class ReshapedUse(Use):
    """A use of d seen from p, where d holds the numbers of p in the same order under another shape."""

    use: Use
    seen: tuple[int, ...]
    """d's shape."""
    shape: tuple[int, ...]
    """p's shape."""

    @property
    def examples(self) -> int:
        return self.use.examples

    @property
    def size(self) -> int:
        return self.use.size

    def select(self, index: Tensor | slice) -> ReshapedUse:
        return replace(self, use=self.use.select(index))

    def together(self, units: Units) -> ReshapedUse:
        return replace(self, use=self.use.together(units))

    def dense(self) -> Tensor:
        return self.use.dense().reshape(self.examples, *self.shape)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.use.weighted_sum(weights).reshape(self.shape)

    def sq_norm(self) -> Tensor:
        return self.use.sq_norm()

    def inner_with(self, other: Use) -> Tensor | None:
        if isinstance(other, ReshapedUse) and other.seen == self.seen:
            return inner(self.use, other.use)
        return None


def own_rows(grads: Tensor, examples: int) -> Use:
    """Return the use of a tensor `(n·k, ...)` whose rows are k of each example, from their gradients."""
    own = grads.unflatten(0, (examples, -1))
    rows = torch.arange(examples, device=grads.device)
    if own.shape[1] == 1:
        return AlignedUse(own[:, 0], rows, examples)
    return ReshapedUse(AlignedUse(own, rows, examples), tuple(own.shape), tuple(grads.shape))


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
