"""Ghost norms: norms of sums of outer products from the inner products of all pairs of an example's positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from dplit.grads.factors.base import MAX_INSTANTIATED, product, rounded_up, sq_norms, underflow, wide

T = TypeVar("T")

MIN_SPLIT = 32
"""Fewest positions of each half when a Gram matrix is split in two."""

MAX_GRAM_POSITIONS = 4096
"""Most positions whose Gram matrix exists at one time."""

PRODUCTS_PER_NUMBER = {"cpu": 128, "cuda": 1024}
"""How many multiplications of a matrix product take as long as writing and reading one number of a gradient, by device."""


class Gram(NamedTuple):
    """Inner products of all pairs of positions of each example, each pair once."""

    off_diagonal: list[Tensor]
    """`(n, ·)` each: the pairs whose positions are in different halves, for the whole and for each half in turn."""
    blocks: Tensor
    """`(n, k, t, t)`: the pairs within each of k blocks on the diagonal."""


_Key = tuple[object, ...]
_shared: ContextVar[dict[_Key, tuple[object, tuple[Tensor, ...]]] | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Let gradients that are asked one after the other share what they compute from the same activation (q, k and v, say)."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def ghost_is_slower(positions: int, width: int, size: int, device: torch.device) -> bool:
    """Whether the ghost norm takes more time than building the gradient.

    The gradient is assumed to be kept once built, so that its matrix product also serves the weighted sum.

    Args:
        positions: t; the ghost norm compares t² pairs.
        width: d + p, the numbers multiplied for each pair.
        size: how many numbers the built gradient has.
        device: where.
    """
    return positions * positions * width > PRODUCTS_PER_NUMBER["cpu" if device.type == "cpu" else "cuda"] * size


def ghost_sq_norm(x: Tensor, back: Tensor) -> Tensor:
    """Return Σₜₛ ⟨xᵢₜ, xᵢₛ⟩ ⟨bᵢₜ, bᵢₛ⟩ = ‖Σₜ bᵢₜ xᵢₜᵀ‖², shape `(n,)`, not too small by rounding or underflow.

    Both Gram matrices are symmetric, so each pair is computed once: the first half of the positions against the second, then
    each half in the same way.

    Args:
        x: `(n, t, d)`.
        back: `(n, t, p)`.
    """
    n, t, d = x.shape
    numbers = t * (d + back.shape[2])
    if t > MAX_GRAM_POSITIONS:
        sq = sq_norms(x), sq_norms(back)
        total = _ghost_sq_norm_in_blocks(x, back) + underflow(numbers, (sq[0] + sq[1]).sum(1))
        return rounded_up(total, product(*sq).sum(1))
    step = max(1, MAX_INSTANTIATED // (t * t))
    if step >= n:
        return _sq_norm_of_grams(_gram(x), _gram(back), numbers)
    runs = [slice(i, i + step) for i in range(0, n, step)]
    return torch.cat([_sq_norm_of_grams(_pairs(wide(x[run])), _pairs(wide(back[run])), numbers) for run in runs])


def cross_inner(x: Tensor, back: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return Σₜₛ ⟨xᵢₜ, uᵢₛ⟩ ⟨bᵢₜ, vᵢₛ⟩ = ⟨Σₜ bᵢₜ xᵢₜᵀ, Σₛ vᵢₛ uᵢₛᵀ⟩, shape `(n,)`."""
    t, s = min(x.shape[1], MAX_GRAM_POSITIONS), min(u.shape[1], MAX_GRAM_POSITIONS)
    step = max(1, MAX_INSTANTIATED // (t * s))
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
    blocks = [slice(i, i + MAX_GRAM_POSITIONS) for i in range(0, x.shape[1], MAX_GRAM_POSITIONS)]
    products = [
        (1 if i == j else 2) * cross_inner(x[:, a], back[:, a], x[:, b], back[:, b])
        for i, a in enumerate(blocks)
        for j, b in enumerate(blocks[: i + 1])
    ]
    return torch.stack(products).sum(0)


def scaled(x: Tensor, weights: Tensor) -> Tensor:
    """Return `(n, t, d)` activations times `(n,)` weights, in float32 or wider."""
    return _once(lambda: wide(x) * weights.to(wide(x).dtype)[:, None, None], x, weights)


def _gram(x: Tensor) -> Gram:
    return _once(lambda: _pairs(wide(x)), x)


def _once(compute: Callable[[], T], *given: Tensor) -> T:
    """Compute, or return what was computed for one of the last two different inputs; inputs are told apart by their memory.

    The inputs are kept alive with the result, so that their memory is not reused meanwhile.
    """
    slot = _shared.get()
    if slot is None:
        return compute()
    key = tuple((v.data_ptr(), v.shape, v.stride(), v.dtype, v._version) for v in given)
    known = slot.pop(key, None) or (compute(), given)
    while len(slot) > 1:
        slot.pop(next(iter(slot)))
    slot[key] = known
    return cast("T", known[0])


def _pairs(x: Tensor) -> Gram:
    n, t, d = x.shape
    off_diagonal = []
    while t % 2 == 0 and t >= 2 * MIN_SPLIT:
        halves = x.reshape(-1, 2, t // 2, d)
        off_diagonal.append((halves[:, 0] @ halves[:, 1].mT).view(n, -1))
        t //= 2
    blocks = x.reshape(-1, t, d)
    return Gram(off_diagonal, (blocks @ blocks.mT).view(n, -1, t, t))


def _sq_norm_of_grams(a: Gram, b: Gram, numbers: int) -> Tensor:
    """Return the sum of the products over all pairs (t, s), where the Gram matrices are of this many numbers in all."""
    squares = [v.blocks.diagonal(dim1=2, dim2=3).flatten(1) for v in (a, b)]
    total = _dot(a.blocks, b.blocks)
    for u, v in zip(a.off_diagonal, b.off_diagonal, strict=True):
        total = total + 2 * torch.linalg.vecdot(u, v)
    lost = underflow(numbers, (squares[0] + squares[1]).sum(1))
    return rounded_up(total, _dot(*squares)) + lost


def _dot(a: Tensor, b: Tensor) -> Tensor:
    products: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return products
