"""Which parameters a private step trains: those trainable ones that the optimizer steps on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from dplit.grads.parameters import trainable_parameters

SHOWN = 3
"""Most names that a warning lists."""


def idle_parameters(module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, nn.Parameter]:
    """Return the trainable parameters, by name, that no optimizer steps on now."""
    stepped = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in trainable_parameters(module).items() if id(p) not in stepped}


@contextmanager
def idle_frozen(module: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Freeze meanwhile what no optimizer steps on, so that it takes no part in the norms that are clipped, nor in the noise.

    It is asked for at each draw: callbacks give the optimizer further parameters during a fit.
    """
    idle = idle_parameters(module, optimizers).values()
    for parameter in idle:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in idle:
            parameter.requires_grad_(True)


def warn_of_idle(module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Warn of trainable parameters that no optimizer steps on, which may be meant or forgotten."""
    idle = list(idle_parameters(module, optimizers))
    if not idle:
        return
    names = ", ".join(idle[:SHOWN]) + (", ..." if len(idle) > SHOWN else "")
    rank_zero_warn(
        f"the optimizer steps on {len(trainable_parameters(module)) - len(idle)} of {len(trainable_parameters(module))} "
        f"trainable parameters; the others ({names}) are taken as frozen until it does, and use up none of the clip; freeze "
        "them with requires_grad_(False), or give them to the optimizer"
    )
