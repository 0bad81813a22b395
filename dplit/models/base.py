"""How every model here is trained: losses per example under a DP strategy, an optimizer and a schedule."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dplit.errors import ConfigurationError
from dplit.models.optim.adam_bc import AdamBC
from dplit.models.optim.schedule import SCHEDULES, factor
from dplit.protocols import per_example_losses, private_strategy

OPTIMIZERS = ("adam_bc", "sgd", "adamw")


class BaseModel(L.LightningModule):
    """What is asked of a run, and how weights move; a subclass adds the layers and the losses.

    Nothing is logged while training, because a loss of the training split would leave it without noise.

    Args:
        learning_rate: step size at its highest.
        optimizer: `sgd`, with momentum; `adamw`; or `adam_bc`, an Adam that knows how much noise is in the gradient
            and takes its variance out of the second moment (`dplit.models.optim.adam_bc.AdamBC`). The last reads the noise
            of each step from the trainer's strategy; without privacy it is Adam with a floor.
        momentum: of `sgd`; the others keep their own.
        weight_decay: as the optimizer defines it.
        schedule: `cosine` or `linear`, to zero over the planned steps of the run, or `constant`.
        warmup: share of the planned steps in which the rate rises to its highest, in [0, 1).
        floor: least second moment that `adam_bc` divides by, γ′ of its source, in squared units of the gradient.
        log_train_loss: log `train/loss`, the un-noised mean loss of each batch; it is released without charge.

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
        _check(learning_rate, optimizer, momentum, weight_decay, schedule)
        _check_more(warmup, floor)
        self.learning_rate, self.optimizer, self.momentum = learning_rate, optimizer, momentum
        self.weight_decay, self.schedule, self.warmup, self.floor = weight_decay, schedule, warmup, floor
        self.log_train_loss = log_train_loss

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and a schedule that moves once per optimizer step."""
        optimizer = self._optimizer()
        if self.schedule == "constant" and not self.warmup:
            return optimizer
        moved = LambdaLR(optimizer, factor(self.schedule, self._planned_steps(), self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": moved, "interval": "step"}}

    def from_data(self, name: str) -> int:
        """Read a declared size, such as `num_classes`, from the data module of the running trainer.

        Raises:
            ConfigurationError: there is no data module, or it does not declare the size.

        """
        size = getattr(self._datamodule(), name, None)
        if size is None:
            raise ConfigurationError(f"{name}=None and no data module declares {name}; give the model {name}=...")
        return int(size)

    def noise_std(self) -> float:
        """Return the standard deviation of the noise in each coordinate of the next released gradient, 0 without one."""
        strategy = private_strategy(self._attached_trainer())
        return 0.0 if strategy is None else strategy.noise_std()

    def _reduced(self, losses: Tensor) -> Tensor:
        """Return the losses, `(n,)`, if the strategy asks for losses per example, else their mean."""
        if self.log_train_loss and len(losses):
            self.log("train/loss", losses.detach().mean(), batch_size=len(losses))
        return losses if self._per_example() else losses.mean()

    def _per_example(self) -> bool:
        return per_example_losses(self._attached_trainer())

    def _attached_trainer(self) -> Any:
        try:
            return self.trainer
        except RuntimeError:  # Lightning's way to say that there is none
            return None

    def _datamodule(self) -> Any:
        return getattr(self._attached_trainer(), "datamodule", None)

    def _optimizer(self) -> Optimizer:
        trainable, decay = self._trained(), self.weight_decay
        if self.optimizer == "adamw":
            return AdamW(trainable, lr=self.learning_rate, weight_decay=decay)
        if self.optimizer == "adam_bc":
            return AdamBC(trainable, self.noise_std, lr=self.learning_rate, floor=self.floor, weight_decay=decay)
        return SGD(trainable, lr=self.learning_rate, momentum=self.momentum, weight_decay=decay)

    def _trained(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; one without an `lr` has `learning_rate`."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def _planned_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigurationError(
                f"schedule={self.schedule!r} has no end to run towards without max_epochs or max_steps; "
                "set one of them, or schedule='constant'"
            )
        return int(steps)


def _check(learning_rate: float, optimizer: str, momentum: float, weight_decay: float, schedule: str) -> None:
    if not 0 < learning_rate < float("inf"):
        raise ConfigurationError(f"learning_rate={learning_rate} would not move the weights; give a number above 0")
    if not 0 <= momentum < 1:
        raise ConfigurationError(f"momentum={momentum} would not fade; give a number in [0, 1)")
    if not 0 <= weight_decay < float("inf"):
        raise ConfigurationError(f"weight_decay={weight_decay} would push the weights apart; give 0 or more")
    if optimizer not in OPTIMIZERS:
        raise ConfigurationError(f"optimizer={optimizer!r} is not known here; choose adam_bc, sgd or adamw")
    if schedule not in SCHEDULES:
        raise ConfigurationError(f"schedule={schedule!r} is not known here; choose linear, cosine or constant")


def _check_more(warmup: float, floor: float) -> None:
    if not 0 <= warmup < 1:
        raise ConfigurationError(f"warmup={warmup} is no share of the steps that leaves some; give a number in [0, 1)")
    if not 0 < floor < float("inf"):
        raise ConfigurationError(f"floor={floor} would let adam_bc divide by nothing; give a number above 0")
