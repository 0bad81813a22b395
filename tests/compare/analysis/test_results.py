"""Figures of finished runs: paired by seed, of the reported split, one line each in results.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from dplit.compare.analysis import results
from dplit.compare.analysis.results import last, score, write_csv
from dplit.compare.run import plan
from dplit.compare.run.plan import Run
from dplit.errors import ConfigurationError
from tests.compare.fabricated import comparison, fabricate, plain, write


def law_costs_are_paired(out: Path) -> None:
    """Seeds that only one side has do not count, and what seeds share cancels."""

    def shared(run: Run, split: str, group: str) -> float:
        cost = 0.0 if run.epsilon is None else {"Female": 0.02, "Male": 0.05}[group]
        return 0.5 + 0.1 * run.seed - cost

    made = comparison(grid={}, seeds=[0, 1, 2, 3])
    measured = fabricate(out, made, shared, skip=["Flat/eps-1/as-given/seed-3"])
    for group, expected in (("Female", 0.02), ("Male", 0.05)):
        cost = measured.cost(("Flat", 1.0), group)
        assert (cost.mean, cost.half, cost.n) == (pytest.approx(expected), pytest.approx(0.0, abs=1e-12), 3)
    gap = measured.cost_gap(("Flat", 1.0))
    assert (gap.mean, gap.half) == (pytest.approx(0.03), pytest.approx(0.0, abs=1e-12))


def test_costs_are_paired(tmp_path: Path) -> None:
    law_costs_are_paired(tmp_path)


def test_a_difference_of_unpaired_means_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpaired(reference: dict[int, float], other: dict[int, float]) -> dict[int, float]:
        return {0: float(np.mean([*reference.values()]) - np.mean([*other.values()]))}

    monkeypatch.setattr(results, "paired", unpaired)
    with pytest.raises(AssertionError):
        law_costs_are_paired(tmp_path)


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
    measured = fabricate(tmp_path, made)
    with write_csv(measured).open(newline="") as file:
        lines = list(csv.DictReader(file))
    names = ["variant", "epsilon_target", "epsilon_spent", "delta", "learning_rate", "chosen"]
    assert list(lines[0]) == [*names, "seed", "split", "metric", "group", "value"]
    assert len(lines) == plan.total(made) * 2 * 9
    keys = {tuple(line[name] for name in line if name not in ("value", "chosen")) for line in lines}
    assert len(keys) == len(lines)
    assert {line["learning_rate"] for line in lines if line["chosen"] == "True"} == {"0.5"}
    assert {line["epsilon_target"] for line in lines if line["variant"] == "not private"} == {""}
    flat = next(
        line
        for line in lines
        if (line["variant"], line["epsilon_target"], line["learning_rate"], line["seed"], line["split"])
        == ("Flat", "3.0", "0.1", "0", "test")
        and (line["metric"], line["group"]) == ("accuracy", "Female")
    )
    assert float(flat["value"]) == pytest.approx(0.725)


def test_reported_figures_are_of_the_test_split(tmp_path: Path) -> None:
    def torn(run: Run, split: str, group: str) -> float:
        return 0.9 if split == "validation" else 0.6

    measured = fabricate(tmp_path, comparison(), torn)
    assert measured.split == "test"
    assert measured.mean(("Flat", 1.0), "overall_accuracy").mean == pytest.approx(0.6)


def test_a_groups_epsilon_is_given_only_where_it_is_stated(tmp_path: Path) -> None:
    measured = fabricate(tmp_path, comparison())
    assert measured.spent_by_group(("Flat", 1.0)) == {"Female": 1.0, "Male": 1.0}
    assert measured.spent_by_group(("Group", 1.0)) is None
