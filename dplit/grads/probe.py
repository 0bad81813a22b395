"""Does one example's gradient depend on another example? Asked of real records before the first release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dplit.errors import CoupledExamples, DplitError
from dplit.grads.per_example import PerExample
from dplit.grads.still import Still
from dplit.grads.tape import Tape

Losses = Callable[[Sequence[Any]], Tensor]
"""From samples to `(n,)` losses, or their sum: collate, forward, loss."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}
"""Difference allowed, relative to the example's whole gradient: rounding only."""
ROUGH = 5e-2
"""The same under reduced precision."""


def probe(module: nn.Module, losses: Losses, samples: Sequence[Any]) -> None:
    """Compare each example's gradient in the company of the others with its gradient alone.

    What couples examples (BatchNorm in training mode, statistics of the batch, in-batch negatives, means over the
    tokens of a batch, a wrong `loss_reduction`) changes it; dropout and other randomness is held still, and padding
    and per-example normalisation do not.

    Args:
        module: the model, in the mode it trains in.
        losses: computes the losses of any number of samples.
        samples: at least two real ones.

    Raises:
        CoupledExamples: naming the first example and the parameter that differs most.
    """
    together = _gradients(module, losses, samples)
    for i in range(len(samples)):
        try:
            alone = _gradients(module, losses, samples[i : i + 1])
        except DplitError:
            raise
        except Exception as error:
            raise CoupledExamples(f"example {i} cannot be computed without the others: {_line(error)}") from error
        _compare(i, _one(together, i), _one(alone, 0))


def _gradients(module: nn.Module, losses: Losses, samples: Sequence[Any]) -> PerExample:
    with Still(), Tape(module, len(samples)) as tape:
        value = losses(samples)
    gradients: PerExample = tape.backward(value)
    return gradients


def _one(gradients: PerExample, i: int) -> dict[str, Tensor]:
    weights = torch.zeros_like(gradients.norms())
    weights[i] = 1.0
    return gradients.weighted_sum(weights)


def _compare(i: int, together: dict[str, Tensor], alone: dict[str, Tensor]) -> None:
    off = {name: float((together[name].double() - alone[name].double()).norm()) for name in alone}
    size = max(_size(together), _size(alone))
    worst = max(off, key=lambda name: off[name] if off[name] == off[name] else float("inf"))
    allowed = max(TOLERANCE.get(g.dtype, ROUGH) for g in alone.values())
    if torch.is_autocast_enabled():
        allowed = ROUGH
    if off[worst] > allowed * size:
        raise CoupledExamples(
            f"the gradient of example {i} changes with the other examples of its batch: by {off[worst] / size:.2g} of its "
            f"norm, most in {worst}; return losses of shape (n,) and use no batch statistics (BatchNorm, means over "
            "the batch's tokens, in-batch negatives)"
        )


def _size(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([g.double().norm() for g in gradients.values()]).norm())


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
