"""Three ways to compute per-example gradients: by the tape, by torch.func, and one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dplit.errors import ConfigurationError
from dplit.grads.factors.base import DenseGrad
from dplit.grads.ownership.proof import Proof
from dplit.grads.parameters import trainable_parameters
from dplit.grads.per_example import PerExample
from dplit.grads.tape.tape import Tape
from dplit.grads.types import Batch, Losses
from dplit.grads.vmap import LossesAndGradients, by_vmap

Backend = Callable[[nn.Module, Losses, Batch, int], Iterator[LossesAndGradients]]
"""From a module, its losses, a batch and its number of examples to the gradients of runs of consecutive examples."""


def by_tape(
    module: nn.Module, losses: Losses, batch: Batch, examples: int, proof: Proof | None = None
) -> Iterator[LossesAndGradients]:
    """Yield losses and gradients of the whole batch, recorded operation by operation.

    Args:
        module: its trainable parameters get gradients.
        losses: computes the losses of the batch.
        batch: tensors in mappings, sequences and dataclasses.
        examples: n.
        proof: certifies the path that the step takes; None where gradients are compared, and not used.

    Raises:
        UnsupportedOperation: a trainable parameter meets an operation without a rule, or gets a gradient unseen.
        CoupledExamples, PrivacyError: as `Proof.record`.
    """
    if proof is not None:
        yield proof.record(module, losses, batch, examples)
        return
    with Tape(module, examples) as tape:
        value = losses(batch, examples)
    yield value.detach(), tape.backward(value)


def by_loop(module: nn.Module, losses: Losses, batch: Batch, examples: int) -> Iterator[LossesAndGradients]:
    """Yield loss and gradient of a batch of one, by an ordinary backward; `.grad` of every parameter stays as it was.

    Raises:
        ConfigurationError: a batch of more than one example.
    """
    if examples != 1:
        raise ConfigurationError(f"grads='loop' computes one example at a time, got a batch of {examples}; cut it up")
    yield as_one(module, losses, batch, examples)


def as_one(module: nn.Module, losses: Losses, batch: Batch, examples: int) -> LossesAndGradients:
    """Return the losses of a batch and the gradient of their sum, as if the batch were one example."""
    parameters = trainable_parameters(module)
    value = losses(batch, examples)
    factors = {name: [DenseGrad(grad[None])] for name, grad in _gradients(parameters, value).items()}
    return value.detach(), PerExample(parameters, factors, 1)


def by_backward(module: nn.Module, losses: Losses, batch: Batch, examples: int) -> Iterator[LossesAndGradients]:
    """Yield loss and gradient of each example of a batch that goes through the model as one: a backward for each loss.

    It costs n backward passes of n examples. Examples that depend on one another in the batch do so here, too.

    Raises:
        ConfigurationError: the losses are not of shape (n,).
    """
    parameters = trainable_parameters(module)
    values = losses(batch, examples)
    if values.shape != (examples,):
        raise ConfigurationError(
            f"a batch of {examples} examples with a loss of shape {tuple(values.shape)} cannot be taken apart; return losses "
            "of shape (n,), or set DPStrategy(grads='loop')"
        )
    for i, value in enumerate(values):
        grads = _gradients(parameters, value, keep_graph=i + 1 < examples)
        factors = {name: [DenseGrad(grad[None])] for name, grad in grads.items()}
        yield value.detach(), PerExample(parameters, factors, 1)


BACKENDS: dict[str, Backend] = {"tape": by_tape, "vmap": by_vmap, "loop": by_loop}
MAX_EXAMPLES = {"loop": 1}
"""Most examples that a backend takes at a time, where it has a limit."""
PROBE_EXAMPLES = {"tape": 8, "vmap": 8, "loop": 4}
"""Records that the probe compares alone and together; four are the fewest that can trade places."""


def joined(parts: Iterable[LossesAndGradients]) -> PerExample:
    """Return the gradients of several runs of examples as those of one batch; they are built if there are several runs."""
    runs = [gradients for _, gradients in parts]
    if len(runs) == 1:
        return runs[0]
    parameters = runs[0].parameters
    factors = {name: [DenseGrad(torch.cat([_dense(gradients, name) for gradients in runs]))] for name in parameters}
    return PerExample(parameters, factors, sum(gradients.examples for gradients in runs))


def averaged(parts: Iterable[LossesAndGradients], examples: int) -> LossesAndGradients:
    """Return mean loss and mean gradient of all these examples, which make up one unit; runs are consumed one by one."""
    total: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    for values, gradients in parts:
        losses.append(values.sum())
        weights = torch.full((gradients.examples,), 1 / examples, device=values.device)
        for name, weighted in gradients.weighted_sum(weights).items():
            total[name] = total[name].add_(weighted) if name in total else weighted
    factors = {name: [DenseGrad(grad[None])] for name, grad in total.items()}
    return torch.stack(losses).sum() / examples, PerExample(gradients.parameters, factors, 1)


def _dense(gradients: PerExample, name: str) -> Tensor:
    parameter = gradients.parameters[name]
    zeros = torch.zeros_like(parameter).expand(gradients.examples, *parameter.shape)
    return sum((grad.dense() for grad in gradients.factors.get(name, ())), zeros)


def _gradients(parameters: Mapping[str, nn.Parameter], value: Tensor, keep_graph: bool = False) -> dict[str, Tensor]:
    """Return the gradients of the parameters that took part.

    A whole backward computes them, because some models (with reentrant checkpoints) cannot run under `autograd.grad`.
    """
    before = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    try:
        if value.requires_grad:
            torch.autograd.backward(value.sum(), retain_graph=keep_graph)
        grads = {name: p.grad for name, p in parameters.items()}
    finally:
        for name, p in parameters.items():
            p.grad = before[name]
    return {name: grad.to_dense() if grad.is_sparse else grad for name, grad in grads.items() if grad is not None}
