"""One look at the groups, and the tidy file that keeps them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from dplit.fairness.metrics import PER_GROUP, QUALITIES, Row

HEADER = ("epoch", "step", "epsilon", "delta", "split", "group", "metric", "value")
"""Columns of the file. `group` is empty in rows about all groups; `epsilon` is empty for a run that is not private."""


@dataclass(frozen=True)
class Snapshot:
    """The figures of one split at one step.

    Attributes:
        epoch: Lightning's `current_epoch`.
        step: Lightning's `global_step`.
        split: "validation" or "test", with "/0", "/1", ... where there are several loaders.
        groups: the declared list.
        rows: what `metrics.table` gave.
        epsilon: upper bound spent so far, over all groups; None for a run that is not private.
        delta: the δ it is stated at.
        epsilon_by_group: upper bound per group; empty where only the headline holds.

    """

    epoch: int
    step: int
    split: str
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    epsilon: float | None = None
    delta: float | None = None
    epsilon_by_group: Mapping[str, float] = field(default_factory=dict)

    def of(self, metric: str, group: str) -> float:
        """Return one group's figure; KeyError if there is none."""
        return self._figures[metric, group]

    def summary(self, metric: str) -> Row:
        """Return the one row of a summary metric; KeyError if there is none."""
        for row in self.rows:
            if row.metric == metric:
                return row
        raise KeyError(metric)

    @property
    def per_group(self) -> tuple[str, ...]:
        """The metrics that have a value for each declared group, in the order of the table."""
        there = {row.metric for row in self.rows}
        return tuple(metric for metric in PER_GROUP if metric in there)

    @property
    def quality(self) -> str:
        """What the model is judged by here: the first of `metrics.QUALITIES` that the groups have, else "accuracy"."""
        return next((name for name in QUALITIES if name in self.per_group), QUALITIES[0])

    @property
    def _figures(self) -> dict[tuple[str, str], float]:
        return {(row.metric, row.group): row.value for row in self.rows}

    def lines(self) -> Iterator[tuple[object, ...]]:
        """Yield the file's lines, each group's ε among them as metric "epsilon"."""
        spent = [Row("epsilon", group, value) for group, value in self.epsilon_by_group.items()]
        for row in (*self.rows, *spent):
            yield (self.epoch, self.step, self.epsilon, self.delta, self.split, row.group, row.metric, row.value)


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
