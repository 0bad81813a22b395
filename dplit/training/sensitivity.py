"""Weights that keep every contribution within the declared sensitivity, whatever a policy answered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

UNDERFLOW = 1e-18
"""A float32 norm below this may stand for one whose square underflowed; it is bounded as if it were this large."""


def bounded(weights: Tensor, norms: Tensor, ids: Tensor, bound: float, ratios: Sequence[float]) -> Tensor:
    """Return the weights, reduced where a contribution would pass its group's share of the bound.

    Args:
        weights: `(n,)` of the policy, or `(p, n)` by parameter.
        norms: of the same shape, infinite where a gradient is not finite.
        ids: `(n,)` int64 group ids; they are read only where ratios differ from 1.
        bound: the L2 sensitivity of the weighted sum.
        ratios: of each declared group, the share ρ ≤ 1 of the bound that one of its records may move; empty for 1.

    Returns:
        Weights of the same shape with wᵢ‖gᵢ‖ ≤ ρᵢ·bound, by parameter √Σₗ(wₗᵢ‖gₗᵢ‖)² ≤ ρᵢ·bound; 0 where a norm is not
        finite or a weight is not above 0.
    """
    if norms.dim() > 1:
        return _bounded_by_parameter(weights, norms, ids, bound, ratios)
    held = torch.minimum(weights, _largest(norms, ids, bound, ratios) / norms.clamp_min(UNDERFLOW))
    return torch.where((held > 0) & norms.isfinite(), held, 0.0)


def _bounded_by_parameter(weights: Tensor, norms: Tensor, ids: Tensor, bound: float, ratios: Sequence[float]) -> Tensor:
    usable = (weights > 0) & norms.isfinite().all(0)
    held = torch.where(usable, torch.minimum(weights, bound / norms.clamp_min(UNDERFLOW)), 0.0)
    contributed = torch.where(usable, held * norms.clamp_min(UNDERFLOW), 0.0)
    moved = torch.linalg.vector_norm(contributed.double(), dim=0)
    factor: Tensor = (_largest(norms[0], ids, bound, ratios) / moved).clamp(max=1.0)
    return held * factor.to(norms.dtype)


def _largest(norms: Tensor, ids: Tensor, bound: float, ratios: Sequence[float]) -> Tensor:
    """Return the most that each example may move the sum, `(n,)`, or a scalar where it is the same for all."""
    largest = torch.tensor(bound, dtype=norms.dtype, device=norms.device)
    if all(ratio == 1 for ratio in ratios):
        return largest
    return largest * torch.tensor(list(ratios), dtype=norms.dtype, device=norms.device)[ids]
