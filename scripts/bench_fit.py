"""What a private epoch on Adult costs compared with a non-private one: both with the same Trainer, in turns, in one run.

Prints the median seconds per epoch of each and the median of the ratios of neighbouring turns.

    python scripts/bench_fit.py --rounds 5 --epochs 3
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import Strategy
from rich.console import Console
from rich.progress import track
from rich.table import Table

import dplit
from dplit.data.adult import Adult
from dplit.models.mlp import MLP


class EpochTimer(Callback):
    """Seconds of each training epoch. `median` leaves the first one out: it includes the probe and the warming up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._start)

    def median(self) -> float:
        return statistics.median(self.seconds[1:])


def epoch_seconds(strategy: Strategy | str, batch_size: int, epochs: int) -> float:
    seed_everything(0, verbose=False)
    timer = EpochTimer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            strategy=strategy,
            max_epochs=epochs + 1,
            callbacks=[timer],
            default_root_dir=folder,
            accelerator="cpu",
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(MLP(), datamodule=Adult(batch_size=batch_size))
    return timer.median()


def private() -> dplit.DPStrategy:
    return dplit.DPStrategy(dplit.clipping.Flat(4.0), noise=dplit.Target(3.0, 1e-5), physical_batch_size=4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs in a turn (default 3)")
    parser.add_argument(
        "--batch-size", type=int, default=1024, help="expected batch size (default 1024, as in recipes/adult_flat.yaml)"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    plain, dp = [], []
    for _ in track(range(given.rounds), "rounds", transient=True):
        plain.append(epoch_seconds("auto", given.batch_size, given.epochs))
        dp.append(epoch_seconds(private(), given.batch_size, given.epochs))
    ratios = [b / a for a, b in zip(plain, dp, strict=True)]
    table = Table(title=f"Adult, MLP 124-64-32-2, batch {given.batch_size}, {torch.get_num_threads()} threads")
    for column in ("", "seconds per epoch (median)", "ratio (median)", "ratio (range)"):
        table.add_column(column, justify="right")
    table.add_row("non-private", f"{statistics.median(plain):.3f}", "1", "")
    low, high = min(ratios), max(ratios)
    table.add_row(
        "private", f"{statistics.median(dp):.3f}", f"{statistics.median(ratios):.2f}", f"{low:.2f} - {high:.2f}"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
