"""Runs are made once, chosen by validation figures alone, and a second start makes only what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dplit.compare.analysis import results
from dplit.compare.config.recipe import Comparison
from dplit.compare.run import plan, run_folder, runner, worker
from dplit.compare.run.plan import Run
from dplit.errors import ConfigurationError
from tests.compare.fabricated import RECIPE, Bench, comparison, inline, rate

SILENT = Console(quiet=True)


@pytest.fixture
def carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """Carry out a comparison in tmp_path/out with fabricated runs."""
    monkeypatch.setattr(runner, "_pool", inline)
    monkeypatch.setattr(worker, "rehearse", lambda configs: None)

    def go(bench: Bench | None = None, made: Comparison | None = None) -> Bench:
        bench = bench or Bench()
        monkeypatch.setattr(worker, "make", bench.make)
        run_folder.claim(tmp_path / "out", {})
        runner.carry_out(made or comparison(), tmp_path / "out", 1, SILENT)
        return bench

    return go


def rate_of(point: tuple[tuple[str, object], ...]) -> object:
    return dict(point)["model.init_args.learning_rate"]


def law_choice_reads_validation_only(carry: Callable[..., Bench], out: Path) -> None:
    """Where validation prefers 0.1 and test 0.5, 0.1 is chosen."""

    def torn(run: Run, split: str, group: str) -> float:
        return 0.8 - 0.1 * rate(run) if split == "validation" else 0.6 + 0.1 * rate(run)

    carry(Bench(torn))
    assert {rate_of(point) for point in runner.chosen(comparison(), out).values()} == {0.1}


def test_choice_reads_validation_only(carry: Callable[..., Bench], tmp_path: Path) -> None:
    law_choice_reads_validation_only(carry, tmp_path / "out")


def test_a_choice_by_test_figures_is_caught(
    carry: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "CHOICE_SPLIT", "test")
    with pytest.raises(AssertionError):
        law_choice_reads_validation_only(carry, tmp_path / "out")


def test_a_disparity_is_chosen_for_being_small(carry: Callable[..., Bench], tmp_path: Path) -> None:
    def wider(run: Run, split: str, group: str) -> float:
        return 0.7 + (rate(run) / 5 if group == "Female" else 0.0)

    made = comparison(choose_by="accuracy_gap")
    carry(Bench(wider), made)
    assert {rate_of(point) for point in runner.chosen(made, tmp_path / "out").values()} == {0.1}


def test_a_second_start_runs_nothing(carry: Callable[..., Bench]) -> None:
    assert len(carry().made) == plan.total(comparison())
    assert carry().made == []


def test_a_run_without_its_last_file_is_made_again_alone(carry: Callable[..., Bench], tmp_path: Path) -> None:
    first = carry()
    for lost in (first.made[0], first.made[-1]):
        (tmp_path / "out" / lost / run_folder.DONE).unlink()
        assert carry().made == [lost]
        assert (tmp_path / "out" / run_folder.ASIDE / lost / "fairness.csv").is_file()


def test_a_changed_recipe_makes_its_runs_again(carry: Callable[..., Bench]) -> None:
    carry()
    changed = comparison(variants={**RECIPE["variants"], "Flat": {"trainer.max_epochs": 3}})
    again = carry(made=changed).made
    assert again
    assert all(run.startswith("Flat/") for run in again)


def test_other_runs_go_on_where_one_fails(carry: Callable[..., Bench], tmp_path: Path) -> None:
    bench = carry(Bench(fails=lambda run: run.variant == "Group" and run.epsilon == 1))
    measured = results.Results(comparison(), tmp_path / "out", runner.chosen(comparison(), tmp_path / "out"))
    failed = measured.failed
    assert {run.contender for run in failed} == {("Group", 1.0)}
    assert set(failed.values()) == {"RuntimeError: as the test wants"}
    assert {("Flat", 1.0), ("Group", 3.0)} <= set(measured.contenders)
    again = carry()
    assert set(again.made[: len(failed)]) == {str(run) for run in failed}
    assert len(again.made) == plan.total(comparison()) - len(bench.made) + len(failed)


def test_seeds_of_a_single_point_go_on_after_one_failed(carry: Callable[..., Bench], tmp_path: Path) -> None:
    made = comparison(grid={})
    carry(Bench(fails=lambda run: run.seed == 0), made)
    measured = results.Results(made, tmp_path / "out", runner.chosen(made, tmp_path / "out"))
    assert {run.seed for run in measured.done} == {1, 2}


def test_a_broken_variant_is_named_before_anything_is_trained(
    carry: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    monkeypatch.setattr(worker, "rehearse", lambda configs: "bound=-1 must be above 0")
    with pytest.raises(ConfigurationError, match="variant Flat: bound=-1 must be above 0"):
        carry(bench)
    assert bench.made == []


def test_the_smallest_target_is_rehearsed_with_every_point() -> None:
    made = comparison()
    configs = runner.configs_to_rehearse(made, made.variants[0])
    targets = [config["trainer"]["strategy"]["init_args"]["noise"]["init_args"]["epsilon"] for config in configs]
    assert targets == [1.0, 1.0]
    assert {config["model"]["init_args"]["learning_rate"] for config in configs} == {0.1, 0.5}
