"""Intervals, pairing by seed, the tidy file and the charge of the search."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import t

from dplit.compare.analysis import intervals, results, search_cost
from dplit.compare.analysis.intervals import Interval, interval
from dplit.compare.analysis.results import Results, last, score, write_csv
from dplit.compare.config.recipe import Comparison
from dplit.compare.report.pareto import front
from dplit.compare.run import plan, run_folder, runner
from dplit.compare.run.plan import Run
from dplit.errors import ConfigurationError
from dplit.privacy import Gaussian, Sampled, epsilon
from tests.compare.fabricated import Accuracies, Told, comparison, plain, rate, write


def fabricate(
    out: Path, made: Comparison, accuracy: Accuracies = plain, skip: Iterable[str] = (), told: Told | None = None
) -> Results:
    runs = plan.search(made)
    runs += plan.rest(made, plan.choose(made, rate))
    for run in runs:
        if str(run) not in skip:
            place = run_folder.prepare(out, run)
            write(place, run, accuracy, told=told)
            run_folder.finish(place, run, 1.0)
    return Results(made, out, runner.chosen(made, out))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_the_interval_is_students(values: list[float]) -> None:
    n, sem = len(values), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    found = interval(values)
    if sem > 1e-12:
        low, high = t.interval(0.95, n - 1, np.mean(values), sem)
        assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), abs=1e-12)
    assert (found.mean, found.n) == (pytest.approx(np.mean(values)), n)


def test_the_interval_of_two_has_a_closed_form() -> None:
    assert interval([0.0, 1.0]).half == pytest.approx(math.tan(0.475 * math.pi) * 0.5)


def test_one_value_has_no_interval_and_nan_is_left_out() -> None:
    assert interval([0.5, math.nan]).n == 1
    assert math.isnan(interval([0.5]).half)
    assert math.isnan(interval([]).mean)
    assert interval([0.5]).text() == "0.500"
    assert interval([]).text() == "–"
    assert interval([0.0, 1.0]).text(1, 100) == "50.0 ± 635.3"


def law_costs_are_paired(out: Path) -> None:
    """Seeds that only one side has do not count, and what seeds share cancels."""

    def shared(run: Run, split: str, group: str) -> float:
        cost = 0.0 if run.epsilon is None else {"Female": 0.02, "Male": 0.05}[group]
        return 0.5 + 0.1 * run.seed - cost

    made = comparison(grid={}, seeds=[0, 1, 2, 3])
    found = fabricate(out, made, shared, skip=["Flat/eps-1/as-given/seed-3"])
    for group, cost in (("Female", 0.02), ("Male", 0.05)):
        told = found.cost(("Flat", 1.0), group)
        assert (told.mean, told.half, told.n) == (pytest.approx(cost), pytest.approx(0.0, abs=1e-12), 3)
    gap = found.cost_gap(("Flat", 1.0))
    assert (gap.mean, gap.half) == (pytest.approx(0.03), pytest.approx(0.0, abs=1e-12))


def test_costs_are_paired(tmp_path: Path) -> None:
    law_costs_are_paired(tmp_path)


def test_a_difference_of_unpaired_means_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpaired(reference: dict[int, float], other: dict[int, float]) -> dict[int, float]:
        return {0: float(np.mean([*reference.values()]) - np.mean([*other.values()]))}

    monkeypatch.setattr(results, "paired", unpaired)
    with pytest.raises(AssertionError):
        law_costs_are_paired(tmp_path)


def test_the_gap_is_taken_within_each_seed() -> None:
    costs = {"a": {0: 1.0, 1: 0.0}, "b": {0: 0.0, 1: 1.0, 2: 5.0}}
    assert intervals.spread(costs) == {0: 1.0, 1: 1.0}
    assert intervals.spread({"a": {0: 1.0}}) == {}


def test_the_last_epoch_counts(tmp_path: Path) -> None:
    run = plan.search(comparison())[0]
    write(tmp_path, run, plain)
    assert last(tmp_path)["validation"]["accuracy", "Male"] == pytest.approx(plain(run, "validation", "Male"))
    assert score(tmp_path, "overall_accuracy") == pytest.approx(last(tmp_path)["validation"]["overall_accuracy", ""])
    assert score(tmp_path, "accuracy_gap") == pytest.approx(-0.02)
    with pytest.raises(ConfigurationError, match="has no validation loss_of_hair to choose by"):
        score(tmp_path, "loss_of_hair")


def test_the_file_is_tidy_and_whole(tmp_path: Path) -> None:
    made = comparison()
    found = fabricate(tmp_path, made)
    with write_csv(found).open(newline="") as file:
        lines = list(csv.DictReader(file))
    names = ["variant", "epsilon_target", "epsilon_spent", "delta", "learning_rate", "chosen"]
    assert list(lines[0]) == [*names, "seed", "split", "metric", "group", "value"]
    assert len(lines) == plan.total(made) * 2 * 9
    keys = {tuple(line[name] for name in line if name not in ("value", "chosen")) for line in lines}
    assert len(keys) == len(lines)
    assert {line["learning_rate"] for line in lines if line["chosen"] == "True"} == {"0.5"}
    assert {line["epsilon_target"] for line in lines if line["variant"] == "not private"} == {""}
    one = next(
        line
        for line in lines
        if (line["variant"], line["epsilon_target"], line["learning_rate"], line["seed"], line["split"])
        == ("Flat", "3.0", "0.1", "0", "test")
        and (line["metric"], line["group"]) == ("accuracy", "Female")
    )
    assert float(one["value"]) == pytest.approx(0.725)


def test_reported_figures_are_of_the_test_split(tmp_path: Path) -> None:
    def torn(run: Run, split: str, group: str) -> float:
        return 0.9 if split == "validation" else 0.6

    found = fabricate(tmp_path, comparison(), torn)
    assert found.split == "test"
    assert found.mean(("Flat", 1.0), "overall_accuracy").mean == pytest.approx(0.6)


def test_a_groups_epsilon_is_told_only_where_it_is_stated(tmp_path: Path) -> None:
    found = fabricate(tmp_path, comparison())
    assert found.spent_by_group(("Flat", 1.0)) == {"Female": 1.0, "Male": 1.0}
    assert found.spent_by_group(("Group", 1.0)) is None


def law_every_run_is_charged(out: Path) -> None:
    """The search's ε is that of all its runs' events together, of repeated runs too."""
    made = comparison()
    found = fabricate(out, made)
    run_folder.prepare(out, found.done[0])
    told = {
        one.cell: one for one in search_cost.charges(Results(made, out, found.chosen), [("Flat", 1.0), ("Group", 3.0)])
    }
    step = Sampled(0.01, [Gaussian(2.0)])
    other = told["Group", 3.0]
    assert (other.runs, other.tried) == (4, 2)
    assert other.composed == epsilon([(step, 400)], 1e-5).upper
    assert search_cost.overall(found) == (16, epsilon([(step, 1600)], 1e-5).upper)
    repeated = search_cost.journals(found, found.done[0].cell)
    assert len(repeated) == 4


def test_every_run_is_charged(tmp_path: Path) -> None:
    law_every_run_is_charged(tmp_path)


def test_charging_only_what_was_chosen_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search_cost.journals
    monkeypatch.setattr(search_cost, "journals", lambda results, cell: whole(results, cell)[-1:])
    with pytest.raises(AssertionError):
        law_every_run_is_charged(tmp_path)


def test_a_damaged_ledger_leaves_the_charge_unknown(tmp_path: Path) -> None:
    found = fabricate(tmp_path, comparison())
    journal = search_cost.journals(found, ("Flat", 1.0))[0]
    journal.write_text(journal.read_text()[:-20] + "\nnoise\n")
    assert math.isnan(search_cost.together([journal], 1e-5))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12))
def test_the_front_is_what_nobody_beats(points: list[tuple[float, float]]) -> None:
    kept = front(points)
    for k, (gap, accuracy) in enumerate(points):
        beaten = any((g <= gap and a >= accuracy) and (g < gap or a > accuracy) for g, a in points)
        assert (k in kept) == (not beaten)
    assert [points[k] for k in kept] == sorted(points[k] for k in kept)


def test_intervals_are_values() -> None:
    assert Interval(0.5, 0.1, 3).text(2) == "0.50 ± 0.10"
