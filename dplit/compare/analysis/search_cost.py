"""The ε that the search would cost if it were charged: the ledgers of all its runs composed into one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dplit.compare.analysis.results import Results
from dplit.compare.run import run_folder
from dplit.compare.run.plan import VariantAtEpsilon
from dplit.errors import DplitError
from dplit.privacy import read
from dplit.privacy.ledger import joined

JOURNAL = "ledger*.jsonl"


@dataclass(frozen=True)
class SearchCost:
    """The ε of one run, and the ε of all runs that were made to choose its settings.

    Attributes:
        contender: variant and target.
        single: the largest ε that a run of the chosen point states.
        tried: how many grid points were tried.
        runs: how many ledgers were composed, those of failed and repeated runs too.
        composed: ε of all of them together, at the same δ; NaN where a ledger cannot be read.
    """

    contender: VariantAtEpsilon
    single: float
    tried: int
    runs: int
    composed: float


def search_costs(results: Results, contenders: Iterable[VariantAtEpsilon]) -> list[SearchCost]:
    """Return what the search cost for each private contender, with every run made for it, whether it failed or not."""
    delta = results.comparison.delta
    tried = {variant.name: len(variant.points) for variant in results.comparison.variants}
    return [
        SearchCost(
            contender, results.spent(contender), tried[contender.variant], len(ledgers), composed(ledgers, delta)
        )
        for contender in contenders
        for ledgers in [journals(results, contender)]
    ]


def overall(results: Results) -> tuple[int, float]:
    """Return how many private runs were made in all, and the ε of all of them together."""
    ledgers = sorted(results.out.rglob(JOURNAL))
    return len(ledgers), composed(ledgers, results.comparison.delta)


def journals(results: Results, contender: VariantAtEpsilon) -> list[Path]:
    """Return the journals of every run that was made for a contender, those of replaced runs too."""
    folder = next(run.path for run in results.states if run.contender == contender).parents[1]
    return [
        journal
        for top in (results.out, results.out / run_folder.ASIDE)
        if (top / folder).is_dir()
        for journal in sorted((top / folder).rglob(JOURNAL))
    ]


def composed(ledgers: Iterable[Path], delta: float) -> float:
    """Return the certified upper bound of ε of the events in all journals at `delta`.

    Splits of one name are taken to hold the same records, and splits that any journal takes to overlap are added up. NaN
    where a journal cannot be read or no finite bound is known.
    """
    try:
        return joined(map(read, ledgers)).epsilon(delta).upper
    except DplitError:
        return math.nan
