"""What Lightning gets for the loss of a private step: nothing by which an optimizer could tell one draw from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from torch import Tensor
from typing_extensions import override

MEAN_LOSS = "mean_loss"


@dataclass
class StepResult(ClosureResult):
    """The result of a private step, whose loss is 0 for closure, optimizer and hooks.

    The exact mean loss of the draw is given to `on_train_batch_end` alone, as `outputs["loss"]`.
    """

    @override
    def asdict(self) -> dict[str, Any]:
        return {"loss": self.extra.get(MEAN_LOSS, self.loss)}


def step_output(mean_loss: Tensor) -> dict[str, Tensor]:
    """Return what a private strategy gives Lightning for a step: the loss 0, and beside it the mean loss of the draw."""
    return {"loss": mean_loss.new_zeros(()), MEAN_LOSS: mean_loss}


def return_no_loss(trainer: Trainer) -> None:
    """Make the closures of a trainer's fit return 0."""
    trainer.fit_loop.epoch_loop.automatic_optimization.output_result_cls = StepResult
