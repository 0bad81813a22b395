"""Run the model on each physical batch of a draw and pass the gradients to the private step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from dplit.grads.auto import Auto
from dplit.grads.backends import BACKENDS, MAX_EXAMPLES, averaged, joined
from dplit.grads.batch_layout import BatchLayout, batch_layout, in_own_collections
from dplit.grads.factors.units import Units
from dplit.grads.ownership.proof import Proof
from dplit.grads.per_example import PerExample
from dplit.grads.types import Losses
from dplit.groups import GroupKey, group_ids
from dplit.protocols import datamodule_of
from dplit.sampling.draws import Draw, PhysicalBatch, PhysicalCollate
from dplit.sampling.loader import check_owners
from dplit.sampling.units import group_of_units
from dplit.training.losses import StepLosses
from dplit.training.step import PrivateStep

Part = tuple[Tensor, PerExample]
"""Losses of a run of consecutive examples, `(n,)` or their sum, and their gradients."""


Guard = Callable[[Callable[[Callable[[Any], Any]], None]], AbstractContextManager[None]]
"""From what runs a physical batch again, altered by a function, to what is active around it."""

Grads = Literal["auto", "tape", "vmap", "loop"]
"""What computes per-example gradients."""


@dataclass(frozen=True)
class StepArguments:
    """What Lightning passes to `training_step` beside the batch."""

    args: Sequence[Any] = (0,)
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhysicalBatches:
    """Takes physical batches through the model: device transfer, losses, gradients, group ids, private step.

    Args:
        module: the LightningModule.
        precision: the trainer's precision plugin.
        device: where batches and gradients are.
        grads: name of the backend that computes per-example gradients; "auto" leaves it to `auto`.
        group: where a batch keeps its group ids.
        groups: the declared list of groups.
        unit: where a batch says whose each record is, where persons are drawn.
        losses: takes the losses of the examples out of what `training_step` returns.
        layout: which parts of a batch on the device belong to the examples; None while it is not known.
        collated: the same of batches as the collate function makes them.
        proof: certifies the paths of the steps whose gradients are used.
        auto: chooses the backend where `grads` is "auto".
    """

    module: LightningModule
    precision: Precision
    device: torch.device
    grads: Grads = "tape"
    group: GroupKey | None = None
    groups: Sequence[str] = ()
    unit: GroupKey | None = None
    losses: StepLosses = field(default_factory=StepLosses)
    layout: BatchLayout | None = None
    collated: BatchLayout | None = None
    proof: Proof = field(default_factory=Proof)
    auto: Auto = field(default_factory=Auto)

    @property
    def engine(self) -> Literal["tape", "vmap", "loop"]:
        """What computes the gradients of the next batch."""
        return self.auto.engine if self.grads == "auto" else self.grads

    @property
    def max_rows(self) -> int | None:
        """Most rows that the engine takes at a time, if there is a limit."""
        return MAX_EXAMPLES.get(self.engine)

    def on(self, module: LightningModule) -> PhysicalBatches:
        """Return the same for another module, such as a copy to measure."""
        return replace(self, module=module)

    def laid_out(self, samples: Sequence[Any], collate: PhysicalCollate) -> PhysicalBatches:
        """Return the same with the layout that batches of such samples have.

        Raises:
            ConfigurationError: the collate function makes no batch of one sample more.
        """
        layout = batch_layout(lambda few: self.to_device(collate.collate(few)), samples)
        self.proof.owners = replace(self.proof.owners, layout=layout)
        return replace(self, layout=layout, collated=batch_layout(collate.collate, samples))

    def unproven(self) -> PhysicalBatches:
        """Return the same with no path certified yet, to measure a step that has to be."""
        return replace(self, proof=Proof(self.proof.owners, self.proof.harmless, self.proof.unseen))

    def certify(self, samples: Sequence[Any], collate: PhysicalCollate, given: StepArguments) -> None:
        """Show on some samples that loss and gradient of each depend on it alone, where the backend takes them together.

        Raises:
            CoupledExamples, PrivacyError, UnsupportedOperation: as `Proof.certify`.
        """
        if self.engine == "tape" and len(samples) > 1:
            batch = self.to_device(collate.collate(list(samples)))
            self.auto.certify(self.module, self._losses_of(given), batch, len(samples), self.proof)

    def add(self, draw: Draw, step: PrivateStep, given: StepArguments, guard: Guard | None = None) -> Tensor:
        """Add the clipped gradients of a draw to a step that has begun.

        Args:
            draw: its physical batches are taken one by one.
            step: adds up.
            given: what the trainer passes to `training_step` beside the batch.
            guard: is active around each physical batch, and is given what runs the model on it again, altered.

        Returns:
            The mean loss of the draw's examples, or of its units, detached; 0 for an empty draw.
        """
        losses = []
        for part in draw.parts:
            with nullcontext() if guard is None else guard(partial(self._run_altered, part, given)):
                losses.append(self._add_part(part, step, given))
        return torch.stack(losses).sum() / draw.size if losses else torch.zeros((), device=self.device)

    def gradients(self, batch: Any, size: int, given: StepArguments, *, proven: bool = False) -> Iterator[Part]:
        """Yield losses and gradients of a batch on the device, in runs of consecutive examples.

        Args:
            batch: on the device.
            size: its number of examples.
            given: what the trainer passes to `training_step` beside it.
            proven: whether the gradients will be used, so that what they depend on has to be certified.

        Raises:
            PrivacyError, ConfigurationError: `training_step` returned something else than losses of its examples.
        """
        proof = self.proof if proven else None
        if self.grads == "auto":
            yield from self.auto.gradients(self.module, self._losses_of(given), batch, size, self.layout, proof)
            return
        by_name: dict[str, dict[str, Any]] = {"vmap": {"layout": self.layout}, "tape": {"proof": proof}}
        yield from BACKENDS[self.grads](self.module, self._losses_of(given), batch, size, **by_name.get(self.grads, {}))

    def in_company(self, samples: Sequence[Any], collate: PhysicalCollate, given: StepArguments) -> Iterator[Part]:
        """Yield losses and gradients of samples that go through the model together, also where each trains alone."""
        batch = self.to_device(collate.collate(list(samples)))
        yield from self.auto.in_company(self.module, self._losses_of(given), batch, len(samples), self.layout)

    def gradients_of_samples(
        self, samples: Sequence[Any], collate: PhysicalCollate, given: StepArguments, *, proven: bool = False
    ) -> Iterator[Part]:
        """Yield losses and gradients of samples, as many at a time as the backend takes; `proven` as for `gradients`."""
        limit = self.max_rows or len(samples)
        for start in range(0, len(samples), limit):
            few = list(samples[start : start + limit])
            yield from self.gradients(self.to_device(collate.collate(few)), len(few), given, proven=proven)

    def to_device(self, batch: Any) -> Any:
        """Convert a batch to the trainer's precision and move it through the module's own transfer hooks."""
        return self.move(self.precision.convert_input(batch))

    def move(self, batch: Any) -> Any:
        """Move a batch to the device through the module's own transfer hooks."""
        return self.module._apply_batch_transfer_handler(batch, device=self.device, dataloader_idx=0)

    def group_ids(self, batch: Any) -> Tensor:
        """Return the `(n,)` group ids of the rows of a batch."""
        return group_ids(batch, "group" if self.group is None else self.group, self.groups)

    def _run_altered(self, part: PhysicalBatch, given: StepArguments, alter: Callable[[Any], Any]) -> None:
        """Run the model on one physical batch with other values, and keep nothing."""
        for _ in self.gradients(alter(self._checked(part)), part.rows, given):
            pass

    # -- one physical batch ------------------------------------------------------------------------------------------

    def _add_part(self, part: PhysicalBatch, step: PrivateStep, given: StepArguments) -> Tensor:
        """Add one physical batch; return the sum of its examples' losses, or of its units' mean losses."""
        batch = self._checked(part)
        ids = self._ids(batch, part, step)
        if part.owner is None:
            return self._add_examples(batch, part, step, ids, given)
        if part.more:
            return self._add_large_unit(batch, part, step, ids, given)
        return self._add_units(batch, part, part.owner, step, ids, given)

    def _add_examples(
        self, batch: Any, part: PhysicalBatch, step: PrivateStep, ids: Tensor | None, given: StepArguments
    ) -> Tensor:
        """Add rows that are each a unit by themselves, run by run."""
        total, start = torch.zeros((), device=self.device), 0
        for losses, gradients in self.gradients(batch, part.rows, given, proven=True):
            end = start + gradients.examples
            step.accumulate(gradients, None if ids is None else ids[start:end])
            total, start = total + losses.sum(), end
        return total

    def _add_units(
        self,
        batch: Any,
        part: PhysicalBatch,
        owner: Tensor,
        step: PrivateStep,
        ids: Tensor | None,
        given: StepArguments,
    ) -> Tensor:
        """Add units, each the mean of its rows."""
        units = Units(owner.to(self.device), part.units)
        runs = list(self.gradients(batch, part.rows, given, proven=True))
        step.accumulate(joined(runs).averaged(units), ids)
        losses = torch.cat([values.expand(1) if values.dim() == 0 else values for values, _ in runs])
        return units.means(losses).sum() if len(losses) == part.rows else losses.sum() * part.units / part.rows

    def _add_large_unit(
        self, batch: Any, part: PhysicalBatch, step: PrivateStep, ids: Tensor | None, given: StepArguments
    ) -> Tensor:
        """Add one unit that has more rows than go through the model at one time."""

        def runs() -> Iterator[Part]:
            yield from self.gradients(batch, part.rows, given, proven=True)
            for piece in part.more:
                yield from self.gradients(self._checked(piece), piece.rows, given, proven=True)

        loss, gradients = averaged(runs(), part.rows + sum(piece.rows for piece in part.more))
        step.accumulate(gradients, ids)
        return loss

    def _checked(self, part: PhysicalBatch) -> Any:
        """Return a physical batch on the device, once its rows are known to be those that were drawn."""
        if self.unit is not None:
            check_owners(part, self.unit)
        if part.rows == 1 or not moves_by_hooks(self.module):
            return self.to_device(part.batch)
        return self.proof.transferred(self.to_device, part.batch, part.rows, self.collated)

    def _ids(self, batch: Any, part: PhysicalBatch, step: PrivateStep) -> Tensor | None:
        """Return the group ids of the examples or units, None where nothing depends on them."""
        if self.group is None or not step.reads_groups:
            return None
        return group_of_units(self.group_ids(batch), part.owner)

    def _losses_of(self, given: StepArguments) -> Losses:
        """Return what computes losses; the trainer is told which batch it is about to log.

        A step may run more than once on a batch, and each run gets collections of its own to write into.
        """

        def losses(batch: Any, size: int) -> Tensor:
            trainer = self.module._trainer
            if trainer is not None and trainer._results is not None and trainer.lightning_module is self.module:
                trainer._results.batch, trainer._results.batch_size = batch, size
            return self._losses(in_own_collections(batch), size, given)

        return losses

    def _losses(self, batch: Any, size: int, given: StepArguments) -> Tensor:
        with self.precision.train_step_context(), self.losses.following(size) as scalars:
            output = self.module.training_step(batch, *given.args, **given.kwargs)
        return self.losses.of(output, size, scalars)


def moves_by_hooks(module: LightningModule) -> bool:
    """Whether a model, or its data module, has hooks of its own between the collate function and `training_step`."""
    owners = [(module, LightningModule), (datamodule_of(module._trainer), LightningDataModule)]
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    return any(is_overridden(hook, holder, parent) for holder, parent in owners if holder is not None for hook in hooks)
