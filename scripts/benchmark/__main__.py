"""What privacy costs: workloads × methods, taking turns in one run, over plain training of the same model.

    python scripts/bench.py                                        every workload and method, on the CPU
    python scripts/bench.py --workloads W1 W5 --rounds 11          two of them, more rounds
    python scripts/bench.py --methods dplit --no-memory            the baseline comes along by itself
    python scripts/bench.py --device cuda --largest --write docs/benchmarks.md

A method that cannot train a workload is reported with its own error, in one line. Run from the repository's root, on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import torch
from rich.console import Console
from rich.progress import Progress

from . import measure, report
from .methods import METHODS, Setup, Steps
from .report import Row
from .workloads import WORKLOADS

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    quiet()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.child:
        return print(json.dumps(CHILDREN[given.child](given.methods[0], setup(given.workloads[0], given))))
    for name in given.workloads or usual(given.device):
        for baseline in dict.fromkeys(METHODS[m].against for m in given.methods):
            _section(name, baseline, given)
    return None


def _section(name: str, baseline: str, given: argparse.Namespace) -> None:
    """Measure the methods of one baseline. Those of the Trainer train in threads of their own, which would slow the others."""
    methods = [m for m in given.methods if METHODS[m].against == baseline]
    section = show(name, Run(name, argparse.Namespace(**{**vars(given), "methods": methods})).rows(), given)
    if given.write:
        through = "" if baseline == "plain" else ", through the Trainer"
        print(report.written(given.write, {f"{name}{through}, {given.device.type}": section}))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    line = parser()
    given = line.parse_args(arguments)
    if given.device.type == "cuda" and not torch.cuda.is_available():
        line.error("--device cuda: this machine, or this build of torch, has no CUDA; leave it out")
    if given.largest and given.device.type != "cuda":
        line.error("--largest seeks the batch that fills a GPU's memory; add --device cuda")
    return given


def parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {n:6} {w.title}" for n, w in WORKLOADS.items() if not w.hidden)
    kinds = "\n".join(f"  {n:14} {m.title}" for n, m in METHODS.items())
    line = argparse.ArgumentParser(
        "python scripts/bench.py",
        description=__doc__,
        epilog=f"workloads (G*: by default on CUDA only):\n{names}\n\nmethods:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    line.add_argument("--workloads", nargs="+", choices=[*WORKLOADS], metavar="W", help="default: all for the device")
    line.add_argument("--methods", nargs="+", choices=[*METHODS], metavar="M", default=[*METHODS], help="default: all")
    line.add_argument("--rounds", type=at_least_one, default=7, metavar="N", help="timed turns of each (default 7)")
    line.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    line.add_argument("--threads", type=at_least_one, metavar="N", help="of torch (default: all cores)")
    switch = argparse.BooleanOptionalAction
    line.add_argument("--memory", action=switch, default=True, help="peak memory, each method in a fresh process")
    line.add_argument(
        "--agreement", action=switch, default=True, help="how far each private method's clipped sum is from dplit's"
    )
    line.add_argument("--largest", action="store_true", help="on CUDA: the largest batch that fits, by bisection")
    line.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file; its others stay")
    line.add_argument("--child", choices=[*CHILDREN], help=argparse.SUPPRESS)
    return line


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def usual(device: torch.device) -> list[str]:
    return [n for n, w in WORKLOADS.items() if not w.hidden and (device.type == "cuda" or not w.only_cuda)]


def setup(workload: str, given: argparse.Namespace, *, bare: bool = False) -> Setup:
    return Setup(WORKLOADS[workload], given.device, WORKLOADS[workload].examples, bare)


def quiet() -> None:
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


# -- one workload --------------------------------------------------------------------------------------------------


class Run:
    """One workload with the chosen methods and the baselines they need."""

    def __init__(self, workload: str, given: argparse.Namespace) -> None:
        wanted = {*given.methods, *(METHODS[m].against for m in given.methods)}
        self.workload, self.given = workload, given
        self.row = {name: Row(name) for name in METHODS if name in wanted}

    def rows(self) -> list[Row]:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            self.progress = progress
            self._agreement()
            self._time()
            if self.given.memory:
                self._memory()
            if self.given.largest:
                self._largest()
        return [*self.row.values()]

    def _agreement(self) -> None:
        private = [n for n, m in METHODS.items() if m.private and n != "dplit"] if self.given.agreement else []
        for name in self._each("agreement", [n for n in private if n in self.row]):
            with self._failing(name):
                bare = lambda: setup(self.workload, self.given, bare=True)  # noqa: E731
                self.row[name].disagreement = measure.disagreement(name, bare)
            gc.collect()

    def _time(self) -> None:
        started = self._started()
        workload, device = WORKLOADS[self.workload], self.given.device
        task = self.progress.add_task(f"{self.workload} time", total=self.given.rounds * len(started))

        def seconds(name: str) -> float:
            self.progress.advance(task)
            return measure.timed(started[name], workload.repeat, device)

        taken = measure.interleaved([*started], self.given.rounds, seconds)
        for name, seconds_of in taken.items():
            started[name].close()
            if METHODS[name].against in taken:
                self.row[name].time = measure.over(seconds_of, taken[METHODS[name].against])
        started.clear()
        gc.collect()

    def _started(self) -> dict[str, Steps]:
        started: dict[str, Steps] = {}
        for name in self._each("start", [n for n, row in self.row.items() if row.failure is None]):
            with self._failing(name):
                steps = METHODS[name].start(setup(self.workload, self.given))
                measure.settle(steps, self.given.device)
                started[name] = steps
        return started

    def _memory(self) -> None:
        for row in self._working("memory"):
            with self._failing(row.method):
                row.memory = measure.Memory(*self._child("memory", row.method))
        for row in self.row.values():
            base = self.row[METHODS[row.method].against].memory
            if row.memory and base:
                row.memory_over = row.memory.live / base.live

    def _largest(self) -> None:
        for row in self._working("largest batch"):
            with self._failing(row.method):
                (row.largest,) = self._child("largest", row.method)

    def _child(self, kind: str, method: str) -> list[int]:
        given = ["--device", str(self.given.device), "--threads", str(torch.get_num_threads())]
        command = [
            sys.executable,
            "-m",
            "scripts.benchmark",
            "--child",
            kind,
            "--workloads",
            self.workload,
            "--methods",
            method,
        ]
        done = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
        if done.returncode:
            raise RuntimeError(f"in a fresh process: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        figures: list[int] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def _working(self, what: str) -> Iterator[Row]:
        return (self.row[n] for n in self._each(what, [n for n, row in self.row.items() if row.failure is None]))

    def _each(self, what: str, names: Sequence[str]) -> Iterator[str]:
        task = self.progress.add_task(f"{self.workload} {what}", total=len(names))
        for name in names:
            yield name
            self.progress.advance(task)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """Keep a method's error as its row's text; the other methods go on."""
        try:
            yield
        except Exception as error:
            self.row[name].failure = shorten(f"{type(error).__name__}: {error}", 110, placeholder=" …")


def show(workload: str, rows: Sequence[Row], given: argparse.Namespace) -> str:
    title = WORKLOADS[workload].title
    lines = report.table(rows, WORKLOADS[workload])
    Console().print(report.on_screen(f"{workload}: {title}", lines))
    return f"{title}.\n\n{report.in_markdown(lines)}\n\n{report.machine(given.device, given.rounds)}\n"


# -- fresh processes -----------------------------------------------------------------------------------------------


def child_memory(method: str, setup: Setup) -> list[int]:
    return [*measure.memory(METHODS[method].start(setup), setup.device)]


def child_largest(method: str, setup: Setup) -> list[int]:
    return [measure.largest(lambda n: measure.fits(method, Setup(setup.workload, setup.device, n)))]


CHILDREN: dict[str, Callable[[str, Setup], list[int]]] = {"memory": child_memory, "largest": child_largest}


if __name__ == "__main__":
    main()
