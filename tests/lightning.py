"""Small Lightning pieces that the strategy's tests share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import dplit

SIZE, BATCH = 64, 16


class Data(Dataset):
    """64 records of 6 numbers, 3 classes, 3 groups."""

    def __init__(self, size: int = SIZE) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(size, 6, generator=generator)
        self.y = self.x[:, :3].argmax(1)
        self.group = torch.arange(size) % 3

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "y": self.y[i], "group": self.group[i]}


class Linear(LightningModule):
    """A linear classifier with losses per example."""

    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.net: nn.Module = nn.Linear(6, 3)
        self.learning_rate = learning_rate

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self.net(batch["x"]), batch["y"], reduction="none")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.losses(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def loader(size: int = SIZE, batch: int = BATCH) -> DataLoader:
    return DataLoader(Data(size), batch_size=batch, shuffle=True)


def trainer(strategy: Any = None, **options: Any) -> Trainer:
    options = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        **options,
    }
    return Trainer(strategy=strategy or dplit.DPStrategy(), **options)


def fit(module: LightningModule | None = None, strategy: Any = None, train: Any = None, **options: Any) -> Trainer:
    run = trainer(strategy, **options)
    run.fit(module or Linear(), train if train is not None else loader())
    return run
