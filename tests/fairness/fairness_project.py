"""A small Lightning project: three declared groups, one of them absent, another missing from most batches."""

from __future__ import annotations

from collections import namedtuple

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dplit.errors import PrivacyError

NAMES = ("Female", "Male", "Other")
Paid = namedtuple("Paid", "epsilon delta by_group")


def refusal(action):
    """The message of the PrivacyError that `action` ends in."""
    try:
        action()
    except PrivacyError as error:
        return str(error)
    raise AssertionError("not refused")


class Records(Dataset):
    def __init__(self, n=60, classes=2, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 3, generator=draw)
        self.y = torch.randint(classes, (n,), generator=draw)
        self.group = (torch.arange(n) < n // 4).long()  # Male first, then Female only; Other never

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.y[i], "group": self.group[i]}


class Project(LightningDataModule):
    groups = NAMES

    def __init__(self, batch_size=16, loaders=1, n=60, classes=2, **options):
        super().__init__()
        self.batch_size, self.loaders, self.n, self.classes, self.options = batch_size, loaders, n, classes, options

    def train_dataloader(self):
        return DataLoader(Records(classes=self.classes), batch_size=30)

    def val_dataloader(self):
        made = [
            DataLoader(Records(self.n, self.classes, seed), batch_size=self.batch_size, **self.options)
            for seed in range(1, 1 + self.loaders)
        ]
        return made[0] if self.loaders == 1 else made

    test_dataloader = val_dataloader


class Model(LightningModule):
    def __init__(self, classes=2):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, classes)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.layer(batch["x"]), batch["y"])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        logits = self.layer(batch["x"])
        return {
            "logits": logits,
            "target": batch["y"],
            "loss": F.cross_entropy(logits, batch["y"], reduction="none"),
        }

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


def make_private(strategy, spent=lambda: None, release_statistic=lambda value, **given: value, group=None, groups=None):
    """Give a strategy what a private one has."""
    strategy.group, strategy.groups, strategy.per_example_losses = group, groups, True
    strategy.spent, strategy.noise_std, strategy.release_statistic = spent, lambda: 1.0, release_statistic


LOSS_METRICS = {"n", "loss", "overall_loss", "worst_group_loss", "loss_gap"}
TOKEN_METRICS = LOSS_METRICS | {"perplexity", "overall_perplexity", "worst_group_perplexity", "perplexity_gap"}
TERMS = ("gay", "muslim", "never")


class Writer(Model):
    """Says what a language model says: a loss for each text, and how many tokens it is a mean over, 0 to 6."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        losses = F.cross_entropy(self.layer(batch["x"]), batch["y"], reduction="none")
        return {"loss": losses, "tokens": lengths(batch["x"])}

    test_step = validation_step


def lengths(x):
    return (x[:, 1].abs() * 3).long().clamp(max=6)


class Mentioning(Records):
    def __getitem__(self, i):
        return {**super().__getitem__(i), "mentions": self.mentions[i]}

    @property
    def mentions(self):
        return torch.stack([self.x[:, 0] > 0.3, self.x[:, 2] > 0, self.x[:, 0] > 99], 1)


class Texts(Project):
    """Texts mention the first two terms, some both, and never the third."""

    identity_terms = TERMS

    def val_dataloader(self):
        return DataLoader(Mentioning(self.n, self.classes, 1), batch_size=self.batch_size, **self.options)

    test_dataloader = val_dataloader
