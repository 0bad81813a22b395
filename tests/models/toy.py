"""A toy data module, and the trainer and strategy that go with it."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader


class Toy(L.LightningDataModule):
    """Two classes told apart by one number; 50 training, 30 validation examples."""

    num_features, num_classes = 5, 2

    def __init__(self, examples=50):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(examples, 5, generator=draw)
        self.y = (self.x[:, 0] > 0).long()

    def collate(self, indices):
        return {"x": self.x[indices], "y": self.y[indices]}

    def train_dataloader(self):
        return DataLoader(range(len(self.y)), batch_size=16, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(range(30), batch_size=16, collate_fn=self.collate)

    test_dataloader = val_dataloader


class PerExample(SingleDeviceStrategy):
    """Asks for losses per example, as a DP strategy does, and then averages them."""

    per_example_losses = True

    def training_step(self, *inputs):
        losses = super().training_step(*inputs)
        assert losses.shape == (len(inputs[0]["y"]),)
        return losses.mean()


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=tmp_path, **{"enable_checkpointing": False, "max_epochs": 1, **quiet, **options})


def batch_of(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(n, 5, generator=draw), "y": torch.randint(2, (n,), generator=draw)}
