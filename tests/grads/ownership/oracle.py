"""The verdict of numbers: whether replacing, or leaving out, one example changes the loss or the gradient of another."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.grads.ownership.corpus.base import Batch, Step

EXACT, SEEN = 1e-9, 1e-7
"""Relative differences up to which numbers are the same, and from which they differ, in float64."""


@dataclass(frozen=True)
class Outcome:
    """Losses (n,) or scalar; the gradient of each, (n, p) or (1, p); that of their sum (p,); whether numbers were drawn."""

    losses: Tensor
    each: Tensor
    total: Tensor
    drew: bool


def seeded(seed: int) -> None:
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)


def outcome(step: Step, batch: Batch, before: Batch | None = None) -> Outcome:
    """Run the step on a module made anew; where `before` is given, after a step on that batch."""
    seeded(0)
    module = step.make()
    seeded(1)
    for earlier in [batch] * (step.calls - 1) if before is None else [before]:
        step.losses(module, copied(earlier), size(earlier))
    seeded(2)
    start = _state()
    losses = step.losses(module, copied(batch), size(batch))
    drew = _state() != start
    each = torch.stack([_gradient(part, module) for part in losses.reshape(-1)])
    return Outcome(losses.detach(), each, _gradient(losses.sum(), module), drew)


def size(batch: Batch) -> int:
    return len(fields(batch)[0])


def fields(batch: Batch) -> list[Tensor]:
    return list(batch.values() if isinstance(batch, dict) else batch)


def copied(batch: Batch) -> Batch:
    return rebuilt(batch, [t.clone() for t in fields(batch)])


def rebuilt(batch: Batch, tensors: list[Tensor]) -> Batch:
    return dict(zip(batch, tensors, strict=True)) if isinstance(batch, dict) else tuple(tensors)


def replaced(batch: Batch, j: int, row: list[Tensor]) -> Batch:
    """Return the batch with another example j: one tensor for each field."""
    new = [t.clone() for t in fields(batch)]
    for t, r in zip(new, row, strict=True):
        t[j] = r
    return rebuilt(batch, new)


def without(batch: Batch, j: int) -> Batch:
    return rebuilt(batch, [torch.cat([t[:j], t[j + 1 :]]) for t in fields(batch)])


def companions(step: Step, batch: Batch, j: int, g: torch.Generator) -> Iterator[Batch]:
    """Yield the batch with other examples j: one drawn anew, the same larger and at 0, single fields, one at its limits."""
    own, new = [t[j] for t in fields(batch)], [t[j] for t in fields(step.batch(size(batch), g))]
    for scale in (1.0, 1e3, 1e6, 0.0, 1e200):
        yield replaced(batch, j, [t * scale if t.is_floating_point() else t for t in new])
    for k in range(len(own)):
        yield replaced(batch, j, [new[i] if i == k else own[i] for i in range(len(own))])
    for limit in (torch.amin, torch.amax):
        yield replaced(
            batch, j, [t if t.is_floating_point() else limit(f, 0) for t, f in zip(own, fields(batch), strict=True)]
        )


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the size of the numbers; infinite where only one is NaN or infinite."""
    if a.shape != b.shape:
        return float("inf")
    same = (a == b) | (a.isnan() & b.isnan())
    gap = (a - b).abs() / torch.maximum(a.abs(), b.abs()).clamp_min(1.0)
    return float(torch.where(same, 0.0, gap.nan_to_num(nan=torch.inf)).max()) if a.numel() else 0.0


def apart(a: Outcome, b: Outcome, j: int | None, gradients: bool = True) -> float:
    """Return by how much the losses, and the gradients, of all but example j differ."""
    if a.losses.shape != b.losses.shape:
        return float("inf")
    kept = torch.arange(len(a.losses)) != (-1 if j is None else j)
    moved = distance(a.losses[kept], b.losses[kept])
    return max(moved, distance(a.each[kept], b.each[kept])) if gradients else moved


def leftover(a: Outcome) -> float:
    """Return by how much the gradient of the sum is not the sum of the gradients: what a backward pass mixes."""
    return distance(a.total, a.each.sum(0))


def left_out(a: Outcome, b: Outcome, j: int) -> float:
    """Return by how much the losses and gradients in `a` differ from those in `b`, which lacks example j."""
    if b.losses.dim() == 0 or len(b.losses) != len(a.losses) - 1:
        return float("inf")
    kept = torch.arange(len(a.losses)) != j
    return max(distance(a.losses[kept], b.losses), distance(a.each[kept], b.each))


def separate(step: Step, batch: Batch, one: Batch, two: Batch, both: Batch) -> float:
    """For scalars: how far f(x, y) + f(x', y') is from f(x', y) + f(x, y'), and so for gradients. 0 for a sum over examples."""
    a, b, c, d = (outcome(step, x) for x in (batch, one, two, both))
    return max(distance(a.losses + d.losses, b.losses + c.losses), distance(a.total + d.total, b.total + c.total))


def reduced(step: Step, batch: Batch) -> float:
    """For scalars: how far the value and gradient are from the mean or sum of those of each example alone."""
    n = size(batch)
    alone = [outcome(step, rebuilt(batch, [t[i : i + 1] for t in fields(batch)])) for i in range(n)]
    divisor, a = n if step.reduction == "mean" else 1, outcome(step, batch)
    parts = [(a.losses, [o.losses for o in alone]), (a.total, [o.total for o in alone])]
    return max(distance(whole, torch.stack(each).sum(0) / divisor) for whole, each in parts)


def _gradient(value: Tensor, module: torch.nn.Module) -> Tensor:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not value.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters))
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if f is None else f).flatten() for p, f in zip(parameters, found, strict=True)]
    )


def _state() -> tuple[object, ...]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        np.random.get_state()[2],
        random.getstate(),
    )


def gaps(step: Step, batch: Batch, seed: int = 0, ends: tuple[int, ...] = (0, -1)) -> Iterator[float]:
    """Yield by how much each change of the examples in `ends` changes the others' losses or gradients."""
    g = torch.Generator().manual_seed(seed)
    own = outcome(step, batch)
    if own.losses.dim() == 0:
        yield from _scalar(step, batch, own, g)
        return
    for j in sorted({j % size(batch) for j in ends}):
        yield from _later(step, batch, j, g) if step.later else _rows(step, batch, own, j, g)


def _rows(step: Step, batch: Batch, own: Outcome, j: int, g: torch.Generator) -> Iterator[float]:
    yield leftover(own)
    if size(batch) > 1 and not own.drew:
        yield left_out(own, outcome(step, without(batch, j)), j)
    for other in companions(step, batch, j, g):
        yield apart(own, outcome(step, other), j, gradients=_finite(other))


def _later(step: Step, batch: Batch, j: int, g: torch.Generator) -> Iterator[float]:
    following = step.batch(size(batch), g)
    own = outcome(step, following, before=batch)
    for other in companions(step, batch, j, g):
        yield apart(own, outcome(step, following, before=other), None, gradients=_finite(other))


def _scalar(step: Step, batch: Batch, own: Outcome, g: torch.Generator) -> Iterator[float]:
    if step.reduction and not own.drew:
        yield reduced(step, batch)
    first, last = 0, size(batch) - 1
    for one, two in zip(companions(step, batch, first, g), companions(step, batch, last, g), strict=True):
        both = replaced(one, last, [t[last] for t in fields(two)])
        yield separate(step, batch, one, two, both) if _finite(one, two) else 0.0


def _finite(*batches: Batch) -> bool:
    """Whether no number is so large that autograd's zeros times infinity, or a sum of losses, are no one's figure."""
    return all(bool((t.abs() < 1e100).all()) for batch in batches for t in fields(batch))
