"""One look at the groups, and the tidy file that keeps them."""

from __future__ import annotations

import csv
from itertools import chain, count
from pathlib import Path

from dplit.fairness.monitor.snapshot import Snapshot

HEADER = ("epoch", "step", "epsilon", "delta", "split", "group", "metric", "value")
"""Columns of the file. `group` is empty in rows about all groups; `epsilon` is empty for a run that is not private."""


def claim(directory: Path, filename: str) -> Path:
    """Create a file with the header and return its path: `filename`, or with a number where that is taken.

    A name is taken if it, or the picture of the same name, exists: no file of another run is written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    first = directory / filename
    numbered = (first.with_stem(f"{first.stem}-{i}") for i in count(1))
    return next(path for path in chain([first], numbered) if _created(path))


def _created(path: Path) -> bool:
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
