"""Tables of what was measured, for the screen and for docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch
from rich.table import Table

import dplit

from .measure import Memory, Ratio
from .methods import METHODS
from .workloads import Goal, Workload

T = TypeVar("T")

HEAD = """# Benchmarks

Written by `python scripts/bench.py --write docs/benchmarks.md`. A run replaces the sections that it measured.

One step is forward, backward, clipping, noise (σ = 1, bound 1) and AdamW, with dropout as the model ships it, on
random weights and random data. One physical batch is the whole logical batch. The methods take turns: each has one
turn in a round, and their order rotates.

* **Over baseline** is the ratio of the medians of that run, and *range* is the smallest and the largest ratio of one
  round. The baseline is plain training of the same model. For methods that run through the Trainer, the baseline is
  the plain Trainer; draws there have rate 1, so that every draw is the whole batch, and a step is everything that the
  Trainer does from the start of one batch to the start of the next.
* **Memory** is the peak of live tensors in a step after the first two (parameters, optimizer, activations,
  gradients), with each method in a fresh process. *Resident* is the largest size that this process ever had, imports
  included.
* **Disagreement** is the relative distance of the clipped sum from dplit's, without dropout and noise. Rounding in
  float32 gives 1e-6 to 1e-4; more than 1e-3 means another algorithm, or an error.
* **Goal** and *floor* are about the time over baseline. The floor is the arithmetic of the norms alone.

Four things stand between a figure and its floor: the noise, once per logical batch; output gradients that are kept
until the end of the step, so that memory is cold where plain training writes into memory that it has just freed;
gradients of norms and biases for each example; and, on W5, whose step takes a few milliseconds, the work of Python
for each operation. All methods, also the plain one, run in a process whose C library keeps freed memory.
"""

COLUMNS = (
    *("method", "ms a step", "over baseline", "range", "goal", "floor"),
    *("memory MB", "over baseline", "goal", "resident MB", "disagreement"),
)


@dataclass
class Row:
    """One method on one workload; what was not measured is None."""

    method: str
    time: Ratio | None = None
    memory: Memory | None = None
    memory_over: float | None = None
    disagreement: float | None = None
    largest: int | None = None
    failure: str | None = None


def cells(row: Row, workload: Workload) -> list[str]:
    """Return a row's text in the order of COLUMNS, and the largest batch if it was sought."""
    goal = workload.goals.get(row.method)
    goal_of_memory = workload.memory_goal if row.method == "dplit" else None
    texts = [METHODS[row.method].title if row.method in METHODS else row.method]
    texts += _time(row.time, row.failure) + _goal(goal)
    texts += [shown(row.memory, lambda m: f"{m.live / 1e6:,.1f}"), shown(row.memory_over, "{:.2f}".format)]
    texts += [shown(goal_of_memory, "≤ {:.2f}".format), shown(row.memory, lambda m: f"{m.resident / 1e6:,.0f}")]
    texts += [shown(row.disagreement, "{:.0e}".format)]
    return texts


def _time(time: Ratio | None, failure: str | None) -> list[str]:
    if failure is not None:
        return [f"fails: {failure}", "", ""]
    if time is None:
        return ["", "", ""]
    return [f"{time.seconds * 1e3:,.2f}", f"{time.ratio:.2f}", f"{time.low:.2f} – {time.high:.2f}"]


def _goal(goal: Goal | None) -> list[str]:
    return ["", ""] if goal is None else [f"≤ {goal.must:.2f}", shown(goal.floor, "{:.2f}".format)]


def shown(value: T | None, text: Callable[[T], str]) -> str:
    return "" if value is None else text(value)


def table(rows: Sequence[Row], workload: Workload) -> list[list[str]]:
    """Return the header and the rows, without columns in which no row has anything."""
    whole = [list(COLUMNS), *(cells(row, workload) for row in rows)]
    if any(row.largest is not None for row in rows):
        whole[0].append("largest batch")
        for line, row in zip(whole[1:], rows, strict=True):
            line.append(shown(row.largest, str))
    kept = [j for j in range(len(whole[0])) if any(line[j] for line in whole[1:])]
    return [[line[j] for j in kept] for line in whole]


def on_screen(title: str, lines: Sequence[Sequence[str]]) -> Table:
    screen = Table(title=title, title_justify="left")
    for i, column in enumerate(lines[0]):
        screen.add_column(column, justify="right" if i else "left")
    for line in lines[1:]:
        screen.add_row(*line)
    return screen


def in_markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join(
        "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in (lines[0], rule, *lines[1:])
    )


# -- the file ------------------------------------------------------------------------------------------------------


def machine(device: torch.device, rounds: int) -> str:
    """Return, in one paragraph, what a reader needs to know to repeat a run."""
    hardware = f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}; {hardware}"
    versions = [f"Python {platform.python_version()}", f"dplit {dplit.__version__}"]
    versions += [
        f"{name} {v}" for name in ("torch", "lightning", "transformers", "peft", "opacus") if (v := installed(name))
    ]
    return f"{datetime.now(UTC):%Y-%m-%d}. {hardware}. {', '.join(versions)}. {rounds} rounds."


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return model.group(1) if model else platform.processor() or platform.machine()


def written(path: Path, sections: Mapping[str, str]) -> str:
    """Put sections, by heading, into the file in place of those of the same heading; return what was done."""
    old = dict(re.findall(r"^## (.+)\n+((?:(?!^## ).*\n?)*)", path.read_text(), re.M)) if path.exists() else {}
    whole = {**old, **sections}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEAD, *(f"## {heading}\n\n{body.strip()}\n" for heading, body in whole.items())]))
    kept = [heading for heading in old if heading not in sections]
    return f"{path}: wrote {', '.join(sections)}; kept {', '.join(kept) or 'nothing else'}"
