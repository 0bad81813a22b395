"""A private fit with a validation split, whose module logs exact figures of both by every ordinary road."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from tests.lightning import Linear, loader, trainer


class Split(LightningDataModule):
    """Train, validation and test records with three groups."""

    groups = ("a", "b", "c")
    group_key = "group"

    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(loader().dataset, batch_size=32)

    test_dataloader = val_dataloader


class Evaluated(Linear):
    """Logs `train_loss`, `val/loss`, and at the end of validation `val/late`."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.losses(batch)
        self.log("train_loss", losses.detach().mean(), on_step=True, on_epoch=True, batch_size=len(losses))
        return losses

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self._evaluated(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self._evaluated(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self.log("val/late", torch.tensor(0.5))

    def _evaluated(self, batch: Any, split: str) -> dict[str, Any]:
        logits = self.net(batch["x"])
        losses = F.cross_entropy(logits, batch["y"], reduction="none")
        self.log(f"{split}/loss", losses.mean(), prog_bar=True, batch_size=len(losses))
        return {"logits": logits, "target": batch["y"], "loss": losses}


def fit_evaluated(strategy: Any, module: LightningModule | None = None, **options: Any) -> Trainer:
    """Fit with validation, for an epoch."""
    if any(type(callback).__name__ == "ModelCheckpoint" for callback in options.get("callbacks", [])):
        options["enable_checkpointing"] = True
    run = trainer(strategy, **{"num_sanity_val_steps": 0, **options})
    run.fit(module or Evaluated(), datamodule=Split())
    return run
