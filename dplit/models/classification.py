"""What all classifiers share: cross-entropy per example, and loss and accuracy of an evaluation."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from dplit.models.base import BaseModel, Batch
from dplit.predictions import predicted_classes


class Classifier(BaseModel):
    """Cross-entropy classification; a subclass adds `forward(batch) -> (n, num_classes)` logits.

    A batch is a mapping that holds the classes under `y`, `(n,)` int64. Training minimises the unweighted cross-entropy.
    `val/loss`, `val/accuracy`, `test/loss` and `test/accuracy` are logged; each is the exact mean over its split, and a row of
    logits that are not numbers is a wrong prediction.
    Arguments and errors are those of `BaseModel`.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return `(n, num_classes)` logits; each row depends on its own example only."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the losses, `(n,)`, if the strategy asks for losses per example, else their mean."""
        return self._reduced(self._losses(self(batch), batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `{"logits": (n, c), "target": (n,), "loss": (n,)}`."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `{"logits": (n, c), "target": (n,), "loss": (n,)}`."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return `(n, c)` class probabilities."""
        return torch.softmax(self(batch), dim=1)

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Tensor]:
        logits, target = self(batch), batch["y"]
        losses = self._losses(logits, batch)
        accuracy = (predicted_classes(logits) == target).float().mean()
        logged = {f"{split}/loss": losses.mean(), f"{split}/accuracy": accuracy}
        self.log_dict(logged, batch_size=len(target), prog_bar=True, sync_dist=True)
        return {"logits": logits, "target": target, "loss": losses}

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits, batch["y"], reduction="none")
