"""What the search would cost if it were charged: the ledgers of all its runs composed into one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dplit.compare.analysis.results import Results
from dplit.compare.run import run_folder
from dplit.compare.run.plan import VariantAtEpsilon
from dplit.errors import DplitError
from dplit.privacy import epsilon, read
from dplit.privacy.events import Event

JOURNAL = "ledger*.jsonl"


@dataclass(frozen=True)
class Charge:
    """The ε of one run beside the ε of everything that was tried to get it.

    Attributes:
        cell: variant and target.
        single: the largest ε that a run of the chosen point states.
        tried: grid points.
        runs: runs whose ledgers were composed, failed and repeated ones among them.
        composed: ε of all of them together, at the same δ; NaN where a ledger cannot be read.
    """

    cell: VariantAtEpsilon
    single: float
    tried: int
    runs: int
    composed: float


def charges(results: Results, cells: Iterable[VariantAtEpsilon]) -> list[Charge]:
    """Return the charge of each private cell: every run made for it, whatever became of it."""
    delta = results.comparison.delta
    points = {one.name: len(one.points) for one in results.comparison.variants}
    return [
        Charge(cell, results.spent(cell), points[cell[0]], len(found), together(found, delta))
        for cell in cells
        for found in [journals(results, cell)]
    ]


def overall(results: Results) -> tuple[int, float]:
    """Return how many private runs were made in all, and their ε together."""
    found = sorted(results.out.rglob(JOURNAL))
    return len(found), together(found, results.comparison.delta)


def journals(results: Results, cell: VariantAtEpsilon) -> list[Path]:
    """Return the journals of every run that was made for a cell, those moved aside too."""
    place = next(run.path for run in results.states if run.cell == cell).parents[1]
    return [
        journal
        for top in (results.out, results.out / run_folder.ASIDE)
        if (top / place).is_dir()
        for journal in sorted((top / place).rglob(JOURNAL))
    ]


def together(found: Iterable[Path], delta: float) -> float:
    """Return the certified ε of all journals' events at `delta`: of each split, then the largest, as splits are disjoint.

    NaN where a journal cannot be read or no finite bound is known.
    """
    events: dict[str, Counter[Event]] = {}
    try:
        for journal in found:
            for split, entries in read(journal).entries.items():
                events.setdefault(split, Counter()).update(entries)
        return max((epsilon(each, delta).upper for each in events.values()), default=0.0)
    except DplitError:
        return math.nan
