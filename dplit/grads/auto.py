"""`grads="auto"`: the tape, and for the parameters that it refuses torch.func, or one example at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import nn

from dplit.errors import ConfigurationError, DplitError, ForbiddenOperation, UnsupportedOperation
from dplit.grads.backends import as_one, by_backward, by_loop, by_tape
from dplit.grads.batch_layout import BatchLayout
from dplit.grads.messages import first_line
from dplit.grads.ownership.proof import MixedGradients, Proof
from dplit.grads.parameters import trainable_parameters
from dplit.grads.per_example import PerExample
from dplit.grads.types import Batch, Losses
from dplit.grads.vmap import LossesAndGradients, by_vmap, logging_held_back, singles

NAMED = 3
"""Most parameters that a message names."""
LONGEST_REASON = 200
"""Most characters that a message repeats of a refusal."""


Second = Callable[[nn.Module, Losses, Batch, int, Collection[str]], Iterator[LossesAndGradients]]
"""As a backend, for the trainable parameters of some names alone."""


class Auto:
    """Takes the quickest backend that is exact, and a slower one from the batch on in which it is refused.

    First the tape. Parameters that it refuses (see `UnsupportedOperation.parameters`) are frozen while it records the others,
    and torch.func computes their gradients in a second pass of the same batch, in which dropout masks are others: an
    example's gradient is still a function of this example alone, and both parts are clipped together. Where torch.func
    cannot run the model, every example goes through it alone. What is no matter of the backend (mixed examples, a layer
    that keeps data) is refused as before.

    Attributes:
        engine: what computes the gradients of the next batch: "tape" (with torch.func for `apart`), "vmap" or "loop".
        apart: names of the parameters that the tape refuses.
    """

    def __init__(self) -> None:
        self.engine: Literal["tape", "vmap", "loop"] = "tape"
        self.apart: dict[str, None] = {}
        self._why: list[str] = []
        self._said = 0

    @property
    def fell_back(self) -> bool:
        """Whether the tape does not compute all gradients."""
        return self.engine != "tape" or bool(self.apart)

    def gradients(
        self,
        module: nn.Module,
        losses: Losses,
        batch: Batch,
        examples: int,
        layout: BatchLayout | None = None,
        proof: Proof | None = None,
    ) -> Iterator[LossesAndGradients]:
        """Yield losses and gradients in runs of consecutive examples.

        Args:
            module: its trainable parameters get gradients.
            losses: computes the losses of a batch.
            batch: tensors in mappings, sequences and dataclasses.
            examples: n.
            layout: as for `by_vmap`.
            proof: as for `by_tape`.

        Raises:
            ForbiddenOperation, CoupledExamples: examples are mixed, or an operation is refused whatever the backend.
            ConfigurationError: the losses are not those of the examples.
        """
        while self.engine != "loop":
            try:
                with logging_held_back(module) as calls:
                    runs = self._attempt(module, losses, batch, examples, layout, proof)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                if isinstance(error, DplitError) and not self._is_about_the_backend(error):
                    raise
                self._step_down(module, error)
                continue
            for call in calls:
                call.again(examples)
            yield from runs
            return
        yield from one_by_one(module, losses, batch, examples, layout, proof)

    def certify(self, module: nn.Module, losses: Losses, batch: Batch, examples: int, proof: Proof) -> None:
        """Certify the step of a batch that the tape takes, for the parameters that it computes.

        Raises:
            CoupledExamples, PrivacyError, UnsupportedOperation: as `Proof.certify`.
        """
        with _frozen(trainable_parameters(module), self.apart):
            proof.certify(module, losses, batch, examples)

    def in_company(
        self, module: nn.Module, losses: Losses, batch: Batch, examples: int, layout: BatchLayout | None = None
    ) -> Iterator[LossesAndGradients]:
        """Yield the same for examples that go through the model together, also where `gradients` takes them apart.

        Compared with the gradients of examples alone, this shows whether they depend on one another. Where the loss is a
        scalar, which has one gradient, it is one run of one example: the sum, of the parameters that are taken apart.
        """
        if not self.fell_back:
            yield from by_tape(module, losses, batch, examples)
            return
        parameters = trainable_parameters(module)
        kept = parameters.keys() - self.apart.keys() if self.engine == "tape" else ()
        with _frozen(parameters, kept):
            together = _together(module, losses, batch, examples)
        if len(together) < examples or not kept:
            yield from together
        else:
            yield from _merged(module, losses, batch, examples, self.apart, lambda *_: iter(together))

    def say(self) -> None:
        """Print, once for each change, which parameters are computed how, why, and how to choose by hand."""
        if len(self._why) > self._said:
            self._said = len(self._why)
            _print(self.line())

    def line(self) -> str:
        """Return what is printed."""
        by_hand = 'set DPStrategy(grads="vmap") or "loop" to choose by hand, "tape" to have it refused'
        what = f"the tape refuses this model ({_shortened(self._why[0])})"
        if self.engine == "loop":
            what += f" and so does torch.func ({_shortened(self._why[-1])}), so each example goes through it alone"
            cost = "exact, many times slower"
        elif self.engine == "vmap":
            what += ", so torch.func builds the gradient of each example"
            cost = "exact, slower, n times the memory of the gradient"
        else:
            names = [*self.apart][:NAMED] + ([f"{len(self.apart) - NAMED} more"] if len(self.apart) > NAMED else [])
            what += f", so torch.func builds the gradients of {', '.join(names)} in a second pass"
            cost = "exact, slower; dropout masks differ between the passes"
        return f'grads="auto": {what}: {cost}; {by_hand}'

    def _attempt(
        self,
        module: nn.Module,
        losses: Losses,
        batch: Batch,
        examples: int,
        layout: BatchLayout | None,
        proof: Proof | None,
    ) -> Iterator[LossesAndGradients]:
        """Return the runs by the present engine; the first is computed, so that a refusal is raised here."""
        if self.engine == "vmap":
            return _begun(by_vmap(module, losses, batch, examples, layout))
        if self.apart:
            second = partial(_by_vmap, layout=layout)
            return _begun(_merged(module, losses, batch, examples, self.apart, second, proof))
        return _begun(by_tape(module, losses, batch, examples, proof))

    def _is_about_the_backend(self, error: DplitError) -> bool:
        """Whether another backend may compute what this error refuses."""
        if isinstance(error, UnsupportedOperation | MixedGradients):
            return not isinstance(error, ForbiddenOperation)
        return isinstance(error, ConfigurationError) and self.engine == "vmap"

    def _step_down(self, module: nn.Module, error: Exception) -> None:
        """Choose what comes next after a refusal."""
        refused = error.parameters if isinstance(error, UnsupportedOperation) else ()
        new = [name for name in refused if name not in self.apart]
        if self.engine == "vmap" or isinstance(error, _NotByVmap):
            self.engine = "loop"
        elif new:
            self.apart.update(dict.fromkeys(new))
            self.engine = "tape" if trainable_parameters(module).keys() - self.apart.keys() else "vmap"
        else:
            self.engine = "vmap"
        self._why.append(first_line(error).partition(";")[0])


def _shortened(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."


def _by_vmap(
    module: nn.Module, losses: Losses, batch: Batch, examples: int, only: Collection[str], layout: BatchLayout | None
) -> Iterator[LossesAndGradients]:
    yield from by_vmap(module, losses, batch, examples, layout, only)


def one_by_one(
    module: nn.Module,
    losses: Losses,
    batch: Batch,
    examples: int,
    layout: BatchLayout | None = None,
    proof: Proof | None = None,
) -> Iterator[LossesAndGradients]:
    """Yield loss and gradient of each example alone; of one in company where the batch cannot be taken apart.

    Raises:
        ConfigurationError: it cannot be taken apart, and the losses are not of shape (n,).
    """
    apart = iter([batch]) if examples == 1 else singles(batch, examples, layout)
    if apart is None:
        if proof is not None:
            proof.check_losses(module, losses, batch, examples)
        yield from by_backward(module, losses, batch, examples)
        return
    for single in apart:
        yield from by_loop(module, losses, single, 1)


class _NotByVmap(UnsupportedOperation):
    """torch.func cannot compute the parameters that the tape refuses."""


def _merged(
    module: nn.Module,
    losses: Losses,
    batch: Batch,
    examples: int,
    apart: Collection[str],
    second: Second,
    proof: Proof | None = None,
) -> Iterator[LossesAndGradients]:
    """Yield losses and gradients: of the parameters `apart` by a second pass, which logs nothing, of the others by the tape."""
    parameters = trainable_parameters(module)
    with _frozen(parameters, apart):
        ((values, taped),) = by_tape(module, losses, batch, examples, proof)
    start = 0
    for their_values, built in _unlogged(module, second(module, losses, batch, examples, apart)):
        run = slice(start, start + built.examples)
        factors = {name: [grad.select(run) for grad in grads] for name, grads in taped.factors.items()}
        yield (
            values[run] if values.dim() else their_values,
            PerExample(parameters, {**factors, **built.factors}, built.examples),
        )
        start = run.stop


def _unlogged(module: nn.Module, runs: Iterator[LossesAndGradients]) -> Iterator[LossesAndGradients]:
    """Yield the runs; what computing them logs is dropped, and an error says that they cannot be computed."""
    while True:
        try:
            with logging_held_back(module):
                run = next(runs, None)
        except (torch.OutOfMemoryError, MemoryError, ForbiddenOperation):
            raise
        except (UnsupportedOperation, ConfigurationError) as error:
            raise _NotByVmap(str(error)) from error
        if run is None:
            return
        yield run


def _together(module: nn.Module, losses: Losses, batch: Batch, examples: int) -> list[LossesAndGradients]:
    """Return loss and gradient of each example, or of their sum where the loss is a scalar."""
    try:
        return list(by_backward(module, losses, batch, examples))
    except ConfigurationError:
        return [as_one(module, losses, batch, examples)]


@contextmanager
def _frozen(parameters: Mapping[str, nn.Parameter], names: Collection[str]) -> Iterator[None]:
    """Let some parameters want no gradient inside this context."""
    frozen = [parameters[name] for name in names if name in parameters]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _begun(runs: Iterator[LossesAndGradients]) -> Iterator[LossesAndGradients]:
    """Compute the first run now."""
    first = next(runs)
    return chain([first], runs)


@rank_zero_only
def _print(line: str) -> None:
    print(f"dplit: {line}", file=sys.stderr)
