"""Run the model on each physical batch of a draw and pass the gradients to the private step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from dplit.clipping import ClippingPolicy
from dplit.errors import ConfigurationError, PrivacyError
from dplit.grads.auto import Auto
from dplit.grads.backends import BACKENDS, MAX_EXAMPLES, averaged, joined
from dplit.grads.factors.units import Units
from dplit.grads.per_example import PerExample
from dplit.grads.types import Losses
from dplit.groups import GroupKey, group_ids
from dplit.sampling.draws import Draw, PhysicalBatch, PhysicalCollate
from dplit.sampling.loader import check_owners
from dplit.sampling.units import group_of_units
from dplit.training.step import PrivateStep

Part = tuple[Tensor, PerExample]
"""Losses of a run of consecutive examples, `(n,)` or their sum, and their gradients."""


Grads = Literal["auto", "tape", "vmap", "loop"]
"""What computes per-example gradients."""

LossReduction = Literal["mean", "sum"]
"""What a scalar loss is of the losses of its examples."""


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
        loss_reduction: what a scalar loss stands for.
        auto: chooses the backend where `grads` is "auto".
    """

    module: LightningModule
    precision: Precision
    device: torch.device
    grads: Grads = "tape"
    group: GroupKey | None = None
    groups: Sequence[str] = ()
    unit: GroupKey | None = None
    loss_reduction: LossReduction | None = None
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

    def add(self, draw: Draw, step: PrivateStep, given: StepArguments) -> Tensor:
        """Add the clipped gradients of a draw to a step that has begun.

        Returns:
            The mean loss of the draw's examples, or of its units, detached; 0 for an empty draw.
        """
        losses = [self._add_part(part, step, given) for part in draw.parts]
        return torch.stack(losses).sum() / draw.size if losses else torch.zeros((), device=self.device)

    def gradients(self, batch: Any, size: int, given: StepArguments) -> Iterator[Part]:
        """Yield losses and gradients of a batch on the device, in runs of consecutive examples.

        Raises:
            PrivacyError, ConfigurationError: `training_step` returned something else than losses of its examples.
        """
        backend = self.auto.gradients if self.grads == "auto" else BACKENDS[self.grads]
        yield from backend(self.module, self._losses_of(given), batch, size)

    def in_company(self, samples: Sequence[Any], collate: PhysicalCollate, given: StepArguments) -> Iterator[Part]:
        """Yield losses and gradients of samples that go through the model together, also where each trains alone."""
        batch = self.to_device(collate.collate(list(samples)))
        yield from self.auto.in_company(self.module, self._losses_of(given), batch, len(samples))

    def gradients_of_samples(
        self, samples: Sequence[Any], collate: PhysicalCollate, given: StepArguments
    ) -> Iterator[Part]:
        """Yield losses and gradients of samples, as many at a time as the backend takes."""
        limit = self.max_rows or len(samples)
        for start in range(0, len(samples), limit):
            few = list(samples[start : start + limit])
            yield from self.gradients(self.to_device(collate.collate(few)), len(few), given)

    def to_device(self, batch: Any) -> Any:
        """Convert a batch to the trainer's precision and move it through the module's own transfer hooks."""
        return self.move(self.precision.convert_input(batch))

    def move(self, batch: Any) -> Any:
        """Move a batch to the device through the module's own transfer hooks."""
        return self.module._apply_batch_transfer_handler(batch, device=self.device, dataloader_idx=0)

    def group_ids(self, batch: Any) -> Tensor:
        """Return the `(n,)` group ids of the rows of a batch."""
        return group_ids(batch, "group" if self.group is None else self.group, self.groups)

    # -- one physical batch ------------------------------------------------------------------------------------------

    def _add_part(self, part: PhysicalBatch, step: PrivateStep, given: StepArguments) -> Tensor:
        """Add one physical batch; return the sum of its examples' losses, or of its units' mean losses."""
        batch = self._checked(part)
        ids = self._ids(batch, part, step.policy)
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
        for losses, gradients in self.gradients(batch, part.rows, given):
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
        runs = list(self.gradients(batch, part.rows, given))
        step.accumulate(joined(runs).averaged(units), ids)
        losses = torch.cat([values.expand(1) if values.dim() == 0 else values for values, _ in runs])
        return units.means(losses).sum() if len(losses) == part.rows else losses.sum() * part.units / part.rows

    def _add_large_unit(
        self, batch: Any, part: PhysicalBatch, step: PrivateStep, ids: Tensor | None, given: StepArguments
    ) -> Tensor:
        """Add one unit that has more rows than go through the model at one time."""

        def runs() -> Iterator[Part]:
            yield from self.gradients(batch, part.rows, given)
            for piece in part.more:
                yield from self.gradients(self._checked(piece), piece.rows, given)

        loss, gradients = averaged(runs(), part.rows + sum(piece.rows for piece in part.more))
        step.accumulate(gradients, ids)
        return loss

    def _checked(self, part: PhysicalBatch) -> Any:
        """Return a physical batch on the device, once its rows are known to be those that were drawn."""
        if self.unit is not None:
            check_owners(part, self.unit)
        return self.to_device(part.batch)

    def _ids(self, batch: Any, part: PhysicalBatch, policy: ClippingPolicy) -> Tensor | None:
        """Return the group ids of the examples or units, None where the policy reads none."""
        if self.group is None or not policy.needs_groups:
            return None
        return group_of_units(self.group_ids(batch), part.owner)

    def _losses_of(self, given: StepArguments) -> Losses:
        """Return what computes losses; the trainer is told which batch it is about to log."""

        def losses(batch: Any, size: int) -> Tensor:
            trainer = self.module._trainer
            if trainer is not None and trainer._results is not None and trainer.lightning_module is self.module:
                trainer._results.batch, trainer._results.batch_size = batch, size
            return self._losses(batch, size, given)

        return losses

    def _losses(self, batch: Any, size: int, given: StepArguments) -> Tensor:
        with self.precision.train_step_context():
            output = self.module.training_step(batch, *given.args, **given.kwargs)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        return losses_per_example(loss, size, self.loss_reduction)


def losses_per_example(loss: object, size: int, reduction: LossReduction | None) -> Tensor:
    """Return `(n,)` losses, or the sum of the n losses that a declared reduction stands for.

    Raises:
        PrivacyError: it is no tensor.
        ConfigurationError: it has another shape, or is a scalar without a declared reduction.
    """
    if not isinstance(loss, Tensor):
        raise PrivacyError(
            f"training_step returned {type(loss).__name__}; return losses per example, shape (n,), as a tensor or under 'loss'"
        )
    if loss.shape == (size,):
        return loss
    if loss.dim() == 0 and reduction is not None:
        return loss * size if reduction == "mean" else loss
    if loss.dim() == 0:
        raise ConfigurationError(
            "training_step returned a scalar; return losses per example, shape (n,), or say what the scalar is with "
            "DPStrategy(loss_reduction='mean')"
        )
    raise ConfigurationError(
        f"training_step returned a loss of shape {tuple(loss.shape)} for {size} examples; it must be ({size},)"
    )
