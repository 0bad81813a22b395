"""The tidy file that keeps the figures of a run."""

from __future__ import annotations

import csv
from itertools import chain, count
from pathlib import Path

from dplit.fairness.monitor.snapshot import Snapshot

HEADER = ("epoch", "step", "epsilon", "delta", "split", "group", "metric", "value")
"""Columns of the file. `group` is empty in rows about all groups; `epsilon` is empty for a run that is not private."""


def claim(directory: Path, filename: str) -> Path:
    """Create a file with the header and return its path: `filename`, or `NAME-1`, `NAME-2`, … where that is taken.

    A name is taken if it, or the picture of the same name, exists: no file of another run is written to. No two processes
    get the same path.

    Raises:
        OSError: the folder cannot be made or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    first = directory / filename
    numbered = (first.with_stem(f"{first.stem}-{i}") for i in count(1))
    return next(path for path in chain([first], numbered) if _create(path))


def _create(path: Path) -> bool:
    """Create the file unless its name is taken, and return whether it was created."""
    if path.with_suffix(".png").exists():
        return False
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(HEADER)
    except FileExistsError:
        return False
    return True


def append(path: Path, snapshot: Snapshot) -> None:
    """Add a snapshot's lines to a file made by `claim`."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(snapshot.lines())
