"""What all models here share: losses per example under a DP strategy, an optimizer and a learning-rate schedule."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal, TypeVar

import lightning as L
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dplit import validation
from dplit.errors import ConfigurationError
from dplit.models.optim.adam_bc import AdamBC, ParameterGroup
from dplit.models.optim.schedule import SCHEDULES, factor
from dplit.protocols import DeclaresClasses, per_example_losses, private_strategy

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

OPTIMIZERS = ("adam_bc", "sgd", "adamw")

Batch = dict[str, Tensor]

Size = TypeVar("Size")


class BaseModel(L.LightningModule):
    """The training settings and the optimizer of every model; a subclass adds the layers and the losses.

    Nothing is logged during training unless `log_train_loss` asks for it, because a loss of the training split would be
    released without noise.

    Args:
        learning_rate: the highest step size of the schedule.
        optimizer: `sgd`, with momentum; `adamw`; or `adam_bc`, an Adam that subtracts the variance of the privacy noise
            from its second moment (`dplit.models.optim.adam_bc.AdamBC`). `adam_bc` reads the noise of each step from the
            trainer's strategy; without privacy it is Adam with a lower bound on its second moment.
        momentum: of `sgd`; the other optimizers have their own.
        weight_decay: as the optimizer defines it.
        schedule: `cosine` or `linear`, both to zero at the last planned step of the run, or `constant`.
        warmup: share of the planned steps in which the rate rises to its highest, in [0, 1).
        floor: the least second moment that `adam_bc` divides by, in squared units of the gradient; γ′ of its source.
        log_train_loss: log `train/loss`, the mean loss of each batch without noise; it is released without charge.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    def __init__(
        self,
        learning_rate: float = 0.25,
        optimizer: Literal["sgd", "adamw", "adam_bc"] = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Literal["cosine", "linear", "constant"] = "cosine",
        warmup: float = 0.0,
        floor: float = 1e-8,
        log_train_loss: bool = False,
    ) -> None:
        super().__init__()
        validation.positive_finite("learning_rate", learning_rate)
        if not 0 <= momentum < 1:
            raise ConfigurationError(f"momentum={momentum} would never forget old gradients; give a number in [0, 1)")
        validation.not_negative("weight_decay", weight_decay)
        validation.choice("optimizer", optimizer, OPTIMIZERS)
        validation.choice("schedule", schedule, SCHEDULES)
        if not 0 <= warmup < 1:
            raise ConfigurationError(
                f"warmup={warmup} would leave no step at the highest rate; give a number in [0, 1)"
            )
        validation.positive_finite("floor", floor)
        self.learning_rate, self.optimizer, self.momentum = learning_rate, optimizer, momentum
        self.weight_decay, self.schedule, self.warmup, self.floor = weight_decay, schedule, warmup, floor
        self.log_train_loss = log_train_loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, with a schedule that moves once per optimizer step unless the rate is constant.

        Raises:
            ConfigurationError: the schedule needs to know the number of steps, and the trainer has no limit.

        """
        optimizer = self._optimizer()
        if self.schedule == "constant" and not self.warmup:
            return optimizer
        scheduler = LambdaLR(optimizer, factor(self.schedule, self._planned_steps(), self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def noise_std(self) -> float:
        """Return the standard deviation of the noise in each coordinate of the next released gradient; 0 without privacy."""
        strategy = private_strategy(self._attached_trainer())
        return 0.0 if strategy is None else strategy.noise_std()

    def _reduced(self, losses: Tensor) -> Tensor:
        """Return `losses`, `(n,)`, if the strategy asks for losses per example, else their mean."""
        if self.log_train_loss and len(losses):
            self.log("train/loss", losses.detach().mean(), batch_size=len(losses))
        return losses if self._per_example() else losses.mean()

    def _per_example(self) -> bool:
        return per_example_losses(self._attached_trainer())

    def _attached_trainer(self) -> L.Trainer | None:
        try:
            return self.trainer
        except RuntimeError:  # how Lightning says that there is no trainer
            return None

    def _datamodule(self) -> object:
        """Return the running trainer's data module, or None; Lightning sets the attribute without declaring it."""
        return getattr(self._attached_trainer(), "datamodule", None)

    def _num_classes_of_data(self) -> int:
        """Read `num_classes` from the data module.

        Raises:
            ConfigurationError: there is no data module, or it does not declare the number.

        """
        data = self._datamodule()
        return required("num_classes", data.num_classes if isinstance(data, DeclaresClasses) else None)

    def _optimizer(self) -> Optimizer:
        groups, decay = self._parameter_groups(), self.weight_decay
        if self.optimizer == "adamw":
            return AdamW(groups, lr=self.learning_rate, weight_decay=decay)
        if self.optimizer == "adam_bc":
            return AdamBC(groups, self.noise_std, lr=self.learning_rate, floor=self.floor, weight_decay=decay)
        return SGD(groups, lr=self.learning_rate, momentum=self.momentum, weight_decay=decay)

    def _parameter_groups(self) -> list[ParameterGroup]:
        """Return the optimizer's groups of trainable parameters; a group without `lr` has `learning_rate`."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def _planned_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if steps == inf:
            raise ConfigurationError(
                f"schedule={self.schedule!r} needs to know the number of steps; set max_epochs or max_steps of the "
                "trainer, or schedule='constant'"
            )
        return int(steps)


def required(name: str, size: Size | None) -> Size:
    """Return a size that the data module declares.

    Raises:
        ConfigurationError: there is none.

    """
    if size is None:
        raise ConfigurationError(f"{name}=None and no data module declares {name}; give the model {name}=...")
    return size
