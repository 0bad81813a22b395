"""Does memory grow with the logical batch? One private step of a language model with LoRA on BOLD, in a process of its own.

Prints, for each logical batch size, the memory of the process before the step and at its largest, as the operating
system counts it, and the seconds that the step took. Linux only. SmolLM2-135M and BOLD are fetched once, if they are not there.

    python scripts/memory.py --logical 64 512 2048 --physical 4
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table

import dplit
from dplit.data.bold import Bold
from dplit.models.causal_lm import CausalLM

MIB = 2**20


def held(field: str) -> int:
    """Return VmRSS (memory now) or VmHWM (the largest so far) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class Watch(Callback):
    """Measures the memory before the first step and the largest since then, and the seconds of the step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the largest so far was that of loading
        self.before, self.start = held("VmRSS"), time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        self.seconds, self.largest = time.perf_counter() - self.start, held("VmHWM")


def measured(given: argparse.Namespace) -> dict[str, float]:
    seed_everything(0, verbose=False)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            strategy=dplit.DPStrategy(noise=1.0, physical_batch_size=given.physical),
            max_steps=1,
            callbacks=[watch],
            default_root_dir=folder,
            accelerator="cpu",
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = Bold("domain", tokenizer=given.model, max_length=given.max_length, batch_size=given.one)
        trainer.fit(CausalLM(given.model, tuning="lora", optimizer="adamw", learning_rate=1e-3, save_to=None), data)
    return {"before": watch.before, "largest": watch.largest, "seconds": watch.seconds}


def alone(given: argparse.Namespace, logical: int) -> dict[str, float]:
    options = ["--physical", str(given.physical), "--max-length", str(given.max_length), "--model", given.model]
    command = [sys.executable, __file__, "--one", str(logical), *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def parser() -> argparse.ArgumentParser:
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--logical", type=int, nargs="+", default=[64, 512, 2048], help="expected batch sizes")
    line.add_argument("--physical", type=int, default=4, help="texts that go through the model at one time (default 4)")
    line.add_argument("--max-length", type=int, default=16, help="most tokens of a text (default 16)")
    line.add_argument("--model", default="smollm2-135m", help="name or folder of a causal language model")
    line.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return line


def main() -> None:
    given = parser().parse_args()
    if given.one is not None:
        print(json.dumps(measured(given)))
        return
    title = f"{given.model} with LoRA, texts of at most {given.max_length} tokens, physical batch {given.physical}"
    table = Table("logical batch", "before the step, MiB", "largest, MiB", "seconds", title=title)
    for logical in given.logical:
        figures = alone(given, logical)
        table.add_row(
            str(logical),
            f"{figures['before'] / MIB:.0f}",
            f"{figures['largest'] / MIB:.0f}",
            f"{figures['seconds']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
