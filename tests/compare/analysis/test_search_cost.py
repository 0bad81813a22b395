"""The search is charged for every run that was made."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dplit.compare.analysis import search_cost
from dplit.compare.analysis.results import Results
from dplit.compare.run import run_folder
from dplit.compare.run.plan import VariantAtEpsilon
from dplit.privacy import Gaussian, Sampled, epsilon
from tests.compare.fabricated import comparison, fabricate


def law_every_run_is_charged(out: Path) -> None:
    """The search's ε is that of all its runs' events together, of repeated runs too."""
    made = comparison()
    measured = fabricate(out, made)
    run_folder.prepare(out, measured.done[0])
    costs = {
        cost.contender: cost
        for cost in search_cost.search_costs(
            Results(made, out, measured.chosen), [VariantAtEpsilon("Flat", 1.0), VariantAtEpsilon("Group", 3.0)]
        )
    }
    step = Sampled(0.01, [Gaussian(2.0)])
    other = costs["Group", 3.0]
    assert (other.runs, other.tried) == (4, 2)
    assert other.composed == epsilon([(step, 400)], 1e-5).upper
    assert search_cost.overall(measured) == (16, epsilon([(step, 1600)], 1e-5).upper)
    repeated = search_cost.journals(measured, measured.done[0].contender)
    assert len(repeated) == 4


def test_every_run_is_charged(tmp_path: Path) -> None:
    law_every_run_is_charged(tmp_path)


def test_charging_only_what_was_chosen_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search_cost.journals
    monkeypatch.setattr(search_cost, "journals", lambda results, contender: whole(results, contender)[-1:])
    with pytest.raises(AssertionError):
        law_every_run_is_charged(tmp_path)


def test_a_damaged_ledger_leaves_the_charge_unknown(tmp_path: Path) -> None:
    measured = fabricate(tmp_path, comparison())
    journal = search_cost.journals(measured, ("Flat", 1.0))[0]
    journal.write_text(journal.read_text()[:-20] + "\nnoise\n")
    assert math.isnan(search_cost.composed([journal], 1e-5))
