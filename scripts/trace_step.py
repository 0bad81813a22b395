"""Trace one private training step, from the draw to `.grad`, and print what it passes through as JSON.

Started by scripts/structure.py in a process of its own, with PYTHONPATH set to the checkout whose dplit is traced. The model
is a small MLP in a Lightning Trainer, with the physical batch as large as the data set. The second step is traced: the
first one also does what is done once.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

import dplit

PACKAGE = Path(dplit.__file__).parent
RECORDS = 64


class SmallMLP(LightningModule):
    """Two layers, a loss for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1], reduction="none")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@dataclass
class StepTrace:
    """A profile function for `sys.setprofile` that looks at the second draw.

    Args:
        weight: the parameter whose `.grad` ends the step.
    """

    weight: nn.Parameter
    draws: int = 0
    finished: bool = False
    files: set[str] = field(default_factory=set)
    hops: set[tuple[str, str]] = field(default_factory=set)
    """Caller's file and called file, where a function of one calls a function of the other directly."""
    entries: list[tuple[str | None, str]] = field(default_factory=list)
    """Every call that enters a file: the file of the caller, None for a caller outside the package, and the file called.

    A file that calls itself through another package, as a forward pass does through torch, is not entered anew.
    """

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is _BaseDataLoaderIter.__next__.__code__:
            self.draws += 1
            self.weight.grad = None
        if self.draws != 2 or self.finished:
            return
        if self.weight.grad is not None:
            self.finished = True
        elif event == "call" and (called := file_of(frame.f_code)) is not None:
            caller = None if frame.f_back is None else file_of(frame.f_back.f_code)
            self.files.add(called)
            if caller not in (None, called):
                self.hops.add((str(caller), called))
            if caller != called and innermost_file(frame.f_back) != called:
                self.entries.append((caller, called))


def file_of(code: CodeType) -> str | None:
    """Return the file of a function below the package, or None for a function of another package."""
    path = Path(code.co_filename)
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else None


def innermost_file(frame: FrameType | None) -> str | None:
    """Return the package's file that is innermost among a frame and its callers, or None."""
    while frame is not None and file_of(frame.f_code) is None:
        frame = frame.f_back
    return None if frame is None else file_of(frame.f_code)


def strategy_files() -> set[str]:
    """Return the files below the package in which DPStrategy and its base classes are defined."""
    paths = [Path(str(sys.modules[cls.__module__].__file__)) for cls in dplit.DPStrategy.__mro__ if cls is not object]
    return {path.relative_to(PACKAGE).as_posix() for path in paths if path.is_relative_to(PACKAGE)}


def trace() -> StepTrace:
    """Train for a few steps and return the trace of the second one."""
    module = SmallMLP()
    traced = StepTrace(module.net[0].weight)  # type: ignore[arg-type]
    data = TensorDataset(torch.randn(RECORDS, 8), torch.randint(2, (RECORDS,)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            strategy=dplit.DPStrategy(noise=1.0, physical_batch_size=RECORDS),
            max_steps=3,
            accelerator="cpu",
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        sys.setprofile(traced)
        try:
            trainer.fit(module, DataLoader(data, batch_size=RECORDS // 2))
        finally:
            sys.setprofile(None)
    return traced


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    traced = trace()
    if not traced.finished:
        sys.exit("no gradient was written in the second step")
    strategy = strategy_files()
    entries = [caller for caller, called in traced.entries if called in strategy]
    print(
        json.dumps(
            {
                "files": sorted(traced.files),
                "hops": sorted(traced.hops),
                "strategy_entries": len(entries),
                "strategy_entries_from_outside": entries.count(None),
            }
        )
    )


if __name__ == "__main__":
    main()
