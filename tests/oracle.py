"""The oracle of exactness: one backward per example, nothing shared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dplit.grads import PerExample


def underflow(dtype: torch.dtype) -> float:
    """By how much a squared norm may be too large, and never too small, for squares that underflowed."""
    return 1e8 * torch.finfo(dtype).tiny


def loop_gradients(module: nn.Module, loss_of: Callable[[int], Tensor], examples: int) -> dict[str, Tensor]:
    """`{name: (n, *shape)}` gradients of the trainable parameters, one example at a time."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    rows = []
    for i in range(examples):
        module.zero_grad()
        loss_of(i).sum().backward()
        rows.append([torch.zeros_like(p) if p.grad is None else p.grad for p in named.values()])
    module.zero_grad()
    return {name: torch.stack([row[k] for row in rows]) for k, name in enumerate(named)}


def norms(gradients: dict[str, Tensor]) -> Tensor:
    return torch.stack([g.double().reshape(len(g), -1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()


def weighted(gradients: dict[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    return {name: torch.tensordot(weights.to(g.dtype), g, 1) for name, g in gradients.items()}


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference over all parameters, relative to the whole expected vector."""
    size = max(1e-300, float(torch.stack([e.double().norm() for e in expected.values()]).norm()))
    assert found.keys() == expected.keys()
    return max(float((found[name].double() - e.double()).norm()) for name, e in expected.items()) / size


def law_exact(gradients: PerExample, expected: dict[str, Tensor], tolerance: float, clip: float = 0.5) -> None:
    """Norms and clipped sums equal the oracle's, relative to its size."""
    reference = norms(expected)
    found, share = gradients.norms(), tolerance * reference.clamp_min(1e-12)
    too_much = found.double() - reference
    assert torch.all(too_much >= -share), (found, reference)
    assert torch.all(too_much <= share + underflow(found.dtype) ** 0.5), (found, reference)
    factors = (clip * reference.median() / reference.clamp_min(1e-12)).clamp(max=1.0)
    assert error(gradients.weighted_sum(factors.to(gradients.norms().dtype)), weighted(expected, factors)) <= tolerance
