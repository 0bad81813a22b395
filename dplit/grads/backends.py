"""Three ways to per-example gradients: by the tape, by torch.func, and one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dplit.errors import ConfigurationError
from dplit.grads.factors.base import DenseGrad
from dplit.grads.per_example import PerExample
from dplit.grads.tape.tape import Tape
from dplit.grads.vmap import Losses, Part, by_vmap

Backend = Callable[[nn.Module, Losses, Any, int], Iterator[Part]]
"""From a module, its losses, a batch and its number of examples to the gradients of runs of consecutive examples."""


def by_tape(module: nn.Module, losses: Losses, batch: Any, examples: int) -> Iterator[Part]:
    """Yield losses and gradients of the whole batch, recorded by operation."""
    with Tape(module, examples) as tape:
        value = losses(batch, examples)
    yield value.detach(), tape.backward(value)


def by_loop(module: nn.Module, losses: Losses, batch: Any, examples: int) -> Iterator[Part]:
    """Yield loss and gradient of a batch of one, by an ordinary backward; `.grad` of every parameter stays as it was.

    Raises:
        ConfigurationError: a batch of more than one example.
    """
    if examples != 1:
        raise ConfigurationError(f"grads='loop' computes one example at a time, got a batch of {examples}; cut it up")
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    value = losses(batch, 1)
    uses = {name: [DenseGrad(grad[None])] for name, grad in _gradients(parameters, value).items()}
    yield value.detach(), PerExample(parameters, uses, 1)


BACKENDS: dict[str, Backend] = {"tape": by_tape, "vmap": by_vmap, "loop": by_loop}
MAX_EXAMPLES = {"loop": 1}
"""Examples an engine takes at a time, where it has a limit."""
PROBE_EXAMPLES = {"tape": 8, "vmap": 8, "loop": 3}
"""Records to compare alone and in company; three are too few to trade places, which batches of one could not show."""


def joined(parts: Iterable[Part]) -> PerExample:
    """Return the gradients of several runs of examples as one; those of more than one run are built."""
    found = [gradients for _, gradients in parts]
    if len(found) == 1:
        return found[0]
    uses = {name: [DenseGrad(torch.cat([_dense(one, name) for one in found]))] for name in found[0].parameters}
    return PerExample(found[0].parameters, uses, sum(one.examples for one in found))


def averaged(parts: Iterable[Part], examples: int) -> Part:
    """Return mean loss and gradient of the one unit that all these examples make up; one run of them exists at a time."""
    total: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    for values, found in parts:
        losses.append(values.sum())
        for name, part in found.weighted_sum(torch.full((found.examples,), 1 / examples, device=values.device)).items():
            total[name] = total[name].add_(part) if name in total else part
    uses = {name: [DenseGrad(part[None])] for name, part in total.items()}
    return torch.stack(losses).sum() / examples, PerExample(found.parameters, uses, 1)


def _dense(one: PerExample, name: str) -> Tensor:
    none = torch.zeros_like(one.parameters[name]).expand(one.examples, *one.parameters[name].shape)
    return sum((use.dense() for use in one.uses.get(name, ())), none)


def _gradients(parameters: dict[str, nn.Parameter], value: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the parameters that took part; a whole backward, for what `autograd.grad` cannot run."""
    before = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    try:
        if value.requires_grad:
            torch.autograd.backward(value.sum())
        found = {name: p.grad for name, p in parameters.items()}
    finally:
        for name, p in parameters.items():
            p.grad = before[name]
    return {name: g.to_dense() if g.is_sparse else g for name, g in found.items() if g is not None}
