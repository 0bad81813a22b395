"""Inner products of all pairs of an example's positions: what ghost norms are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from dplit.grads.factors.base import INSTANTIATED, at_least, sq, wide

T = TypeVar("T")

LEAST = 32
"""Positions below which the two halves of a Gram matrix are not told apart."""

LONGEST = 4096
"""Positions whose Gram matrix exists at one time."""

PER_NUMBER = {"cpu": 128, "cuda": 1024}
"""Multiplications in a product of matrices that take as long as one number of a gradient that is written and read."""


class Gram(NamedTuple):
    """Inner products of all pairs of positions, each pair once."""

    apart: list[Tensor]
    """`(n, ·)` pairs of positions in different halves."""
    blocks: Tensor
    """`(n, k, t, t)` pairs within one of k blocks."""


_shared: ContextVar[dict[tuple[object, ...], tuple[Any, ...]] | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Within, what uses that follow each other compute from an activation they have in common is computed once."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def ghost_is_slower(positions: int, width: int, size: int, device: torch.device) -> bool:
    """Whether the pairs of so many positions, of d + p numbers each, cost more time than a gradient of so many numbers.

    The gradient is taken to be kept, so that the product it comes from takes the place of the weighted sum's.
    """
    return positions * positions * width > PER_NUMBER["cpu" if device.type == "cpu" else "cuda"] * size


def ghost_sq_norm(x: Tensor, back: Tensor) -> Tensor:
    """Return Σₜₛ ⟨xᵢₜ, xᵢₛ⟩ ⟨bᵢₜ, bᵢₛ⟩ = ‖Σₜ bᵢₜ xᵢₜᵀ‖², shape `(n,)`, not too small by rounding.

    Both matrices are symmetric, so pairs are taken once: halves against each other, then each half the same way.

    Args:
        x: `(n, t, d)`.
        back: `(n, t, p)`.
    """
    n, t, _ = x.shape
    if t > LONGEST:
        return at_least(_ghost_sq_norm_in_blocks(x, back), (sq(x) * sq(back)).sum(1))
    step = max(1, INSTANTIATED // (t * t))
    if step >= n:
        return at_least(*_product(_gram(x), _gram(back)))
    runs = [slice(i, i + step) for i in range(0, n, step)]
    return torch.cat([at_least(*_product(_pairs(wide(x[run])), _pairs(wide(back[run])))) for run in runs])


def cross_inner(x: Tensor, back: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return Σₜₛ ⟨xᵢₜ, uᵢₛ⟩ ⟨bᵢₜ, vᵢₛ⟩ = ⟨Σₜ bᵢₜ xᵢₜᵀ, Σₛ vᵢₛ uᵢₛᵀ⟩, shape `(n,)`."""
    t, s = min(x.shape[1], LONGEST), min(u.shape[1], LONGEST)
    step = max(1, INSTANTIATED // (t * s))
    total = []
    for i in range(0, len(x), step):
        run = slice(i, i + step)
        blocks = [
            _dot(
                wide(x[run, k : k + t]) @ wide(u[run, j : j + s]).mT,
                wide(back[run, k : k + t]) @ wide(v[run, j : j + s]).mT,
            )
            for k in range(0, x.shape[1], t)
            for j in range(0, u.shape[1], s)
        ]
        total.append(torch.stack(blocks).sum(0))
    return torch.cat(total)


def _ghost_sq_norm_in_blocks(x: Tensor, back: Tensor) -> Tensor:
    blocks = [slice(i, i + LONGEST) for i in range(0, x.shape[1], LONGEST)]
    found = [
        (1 if i == j else 2) * cross_inner(x[:, a], back[:, a], x[:, b], back[:, b])
        for i, a in enumerate(blocks)
        for j, b in enumerate(blocks[: i + 1])
    ]
    return torch.stack(found).sum(0)


def scaled(x: Tensor, weights: Tensor) -> Tensor:
    """Return `(n, t, d)` activations times `(n,)` weights, in float32 or wider."""
    return _once(lambda: wide(x) * weights.to(wide(x).dtype)[:, None, None], x, weights)


def _gram(x: Tensor) -> Gram:
    return _once(lambda: _pairs(wide(x)), x)


def _once(compute: Callable[[], T], *given: Tensor) -> T:
    """Compute, or return what was computed last or last but one from the same memory, which is held meanwhile."""
    slot = _shared.get()
    if slot is None:
        return compute()
    key = tuple((v.data_ptr(), v.shape, v.stride(), v.dtype, v._version) for v in given)
    known = slot.pop(key, None) or (compute(), given)
    while len(slot) > 1:
        slot.pop(next(iter(slot)))
    slot[key] = known
    return known[0]  # type: ignore[no-any-return]


def _pairs(x: Tensor) -> Gram:
    n, t, d = x.shape
    apart = []
    while t % 2 == 0 and t >= 2 * LEAST:
        halves = x.reshape(-1, 2, t // 2, d)
        apart.append((halves[:, 0] @ halves[:, 1].mT).view(n, -1))
        t //= 2
    blocks = x.reshape(-1, t, d)
    return Gram(apart, (blocks @ blocks.mT).view(n, -1, t, t))


def _product(a: Gram, b: Gram) -> tuple[Tensor, Tensor]:
    """Return Σₜₛ of the products, and of those with t = s alone."""
    own = _dot(*(v.blocks.diagonal(dim1=2, dim2=3) for v in (a, b)))
    total = _dot(a.blocks, b.blocks)
    for u, v in zip(a.apart, b.apart, strict=True):
        total = total + 2 * torch.linalg.vecdot(u, v)
    return total, own


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))  # type: ignore[no-any-return]
