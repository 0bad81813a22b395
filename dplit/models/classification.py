"""What every classifier shares: losses per example under a DP strategy, their mean elsewhere, and two figures."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from dplit.errors import ConfigurationError

Batch = dict[str, Tensor]


class Classifier(L.LightningModule):
    """Cross-entropy classification; a subclass adds `forward(batch) -> (n, num_classes)` logits.

    A batch is a mapping with the classes under `y`, `(n,)` int64. Training minimises the cross-entropy without
    weights; `val/loss`, `val/accuracy`, `test/loss` and `test/accuracy` are logged, each the exact mean over its split.
    Nothing is logged while training, because a loss of the training split would leave it without noise.

    Args:
        learning_rate: step size at the start.
        optimizer: `sgd`, with momentum, or `adamw`.
        momentum: of `sgd`; `adamw` keeps its own.
        weight_decay: as the optimizer defines it.
        schedule: `cosine`, to zero over the planned steps of the run, or `constant`.
        log_train_loss: log `train/loss`, the un-noised mean loss of each batch; it is released without charge.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    def __init__(
        self,
        learning_rate: float = 0.25,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Literal["cosine", "constant"] = "cosine",
        log_train_loss: bool = False,
    ) -> None:
        super().__init__()
        _check(learning_rate, optimizer, momentum, weight_decay, schedule)
        self.learning_rate, self.optimizer, self.momentum = learning_rate, optimizer, momentum
        self.weight_decay, self.schedule = weight_decay, schedule
        self.log_train_loss = log_train_loss

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return `(n, num_classes)` logits, each row a function of its own example only."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the losses, `(n,)`, if the strategy asks for losses per example, else their mean."""
        losses = self._losses(self(batch), batch)
        if self.log_train_loss and len(losses):
            self.log("train/loss", losses.detach().mean(), batch_size=len(losses))
        return losses if self._per_example() else losses.mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `{"logits": (n, c), "target": (n,), "loss": (n,)}`."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `{"logits": (n, c), "target": (n,), "loss": (n,)}`."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return `(n, c)` class probabilities."""
        return torch.softmax(self(batch), dim=1)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and a schedule that moves once per optimizer step."""
        optimizer = self._optimizer()
        if self.schedule == "constant":
            return optimizer
        cosine = CosineAnnealingLR(optimizer, T_max=self._planned_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def from_data(self, name: str) -> int:
        """Read a declared size, such as `num_classes`, from the data module of the running trainer.

        Raises:
            ConfigurationError: there is no data module, or it does not declare the size.

        """
        trainer = self._attached_trainer()
        size = getattr(getattr(trainer, "datamodule", None), name, None)
        if size is None:
            raise ConfigurationError(f"{name}=None and no data module declares {name}; give the model {name}=...")
        return int(size)

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Tensor]:
        logits, target = self(batch), batch["y"]
        losses = self._losses(logits, batch)
        figures = {"loss": losses.mean(), "accuracy": (logits.argmax(1) == target).float().mean()}
        named = {f"{split}/{name}": figure for name, figure in figures.items()}
        self.log_dict(named, batch_size=len(target), prog_bar=True, sync_dist=True)
        return {"logits": logits, "target": target, "loss": losses}

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits, batch["y"], reduction="none")

    def _per_example(self) -> bool:
        return bool(getattr(getattr(self._attached_trainer(), "strategy", None), "per_example_losses", False))

    def _attached_trainer(self) -> Any:
        try:
            return self.trainer
        except RuntimeError:  # Lightning's way to say that there is none
            return None

    def _optimizer(self) -> Optimizer:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self.optimizer == "adamw":
            return AdamW(trainable, lr=self.learning_rate, weight_decay=self.weight_decay)
        return SGD(trainable, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def _planned_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigurationError(
                "schedule='cosine' has no end to run towards without max_epochs or max_steps; "
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
    if optimizer not in ("sgd", "adamw"):
        raise ConfigurationError(f"optimizer={optimizer!r} is not known here; choose sgd or adamw")
    if schedule not in ("cosine", "constant"):
        raise ConfigurationError(f"schedule={schedule!r} is not known here; choose cosine or constant")
