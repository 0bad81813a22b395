"""Which runs are made, which grid point goes on, and what a second start does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dplit.compare.analysis import results
from dplit.compare.config.recipe import Comparison, narrowed
from dplit.compare.run import plan, run_folder, runner, worker
from dplit.compare.run.plan import Run
from dplit.errors import ConfigurationError
from tests.compare.fabricated import RECIPE, Bench, comparison, inline, plain, rate

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


def law_chosen_points_get_all_seeds(made: Comparison, runs: list[Run]) -> None:
    """Every point is tried with the search's seeds, the chosen one with all, and nothing is run twice."""
    assert len({run.path for run in runs}) == len(runs) == plan.total(made)
    for variant, epsilon in plan.cells(made):
        seeds = {
            point: {r.seed for r in runs if r.cell == (variant.name, epsilon) and r.point == point}
            for point in variant.points
        }
        assert sorted(map(len, seeds.values())) == sorted([made.search_seeds] * (len(seeds) - 1) + [len(made.seeds)])
        assert set.union(*seeds.values()) == set(made.seeds)


@pytest.mark.parametrize("search_seeds", [1, 2, 3])
def test_chosen_points_get_all_seeds(search_seeds: int) -> None:
    made = comparison(search_seeds=search_seeds)
    chosen = plan.choose(made, rate)
    law_chosen_points_get_all_seeds(made, [*plan.search(made), *plan.rest(made, chosen)])


def test_a_search_run_again_in_the_second_phase_is_caught() -> None:
    made = comparison()
    twice = plan.rest(narrowed(made), plan.choose(made, rate)) + plan.search(made)
    with pytest.raises(AssertionError):
        law_chosen_points_get_all_seeds(made, [*plan.search(made), *twice])


def test_equal_scores_take_the_first_and_failed_points_are_passed_over() -> None:
    made = comparison(search_seeds=2)
    assert {rate_of(point) for point in plan.choose(made, lambda run: 1.0).values()} == {0.1}
    one_failed = plan.choose(made, lambda run: float("nan") if rate(run) == 0.1 and run.seed == 1 else 1.0)
    assert {rate_of(point) for point in one_failed.values()} == {0.5}
    assert plan.choose(made, lambda run: float("nan")) == {}


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
        assert (tmp_path / "out" / run_folder.ASIDE / f"{lost}-1" / "fairness.csv").is_file()


def test_a_changed_recipe_makes_its_runs_again(carry: Callable[..., Bench]) -> None:
    carry()
    changed = comparison(variants={**RECIPE["variants"], "Flat": {"trainer.max_epochs": 3}})
    again = carry(made=changed).made
    assert again
    assert all(run.startswith("Flat/") for run in again)


def test_other_runs_go_on_where_one_fails(carry: Callable[..., Bench], tmp_path: Path) -> None:
    bench = carry(Bench(fails=lambda run: run.variant == "Group" and run.epsilon == 1))
    found = results.Results(comparison(), tmp_path / "out", runner.chosen(comparison(), tmp_path / "out"))
    failed = found.failed
    assert {run.cell for run in failed} == {("Group", 1.0)}
    assert set(failed.values()) == {"RuntimeError: as told"}
    assert {("Flat", 1.0), ("Group", 3.0)} <= set(found.cells)
    again = carry()
    assert set(again.made[: len(failed)]) == {str(run) for run in failed}
    assert len(again.made) == plan.total(comparison()) - len(bench.made) + len(failed)


def test_seeds_of_a_single_point_go_on_after_one_failed(carry: Callable[..., Bench], tmp_path: Path) -> None:
    made = comparison(grid={})
    carry(Bench(fails=lambda run: run.seed == 0), made)
    found = results.Results(made, tmp_path / "out", runner.chosen(made, tmp_path / "out"))
    assert {run.seed for run in found.done} == {1, 2}


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
    (configs,) = runner._parts(made, made.variants[0])
    targets = [one["trainer"]["strategy"]["init_args"]["noise"]["init_args"]["epsilon"] for one in configs]
    assert targets == [1.0, 1.0]
    assert {one["model"]["init_args"]["learning_rate"] for one in configs} == {0.1, 0.5}


# ---- the folder -------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds something that is no comparison"):
        run_folder.claim(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(ConfigurationError, match="is no folder"):
        run_folder.claim(tmp_path / "photo.jpg", {})


def test_nothing_outside_is_touched(tmp_path: Path) -> None:
    out, run = tmp_path / "out", plan.search(comparison())[0]
    run_folder.claim(out, {})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("mine")
    (out / run.path).parent.mkdir(parents=True)
    (out / run.path).symlink_to(tmp_path / "elsewhere")
    for touch in (lambda: run_folder.prepare(out, run), lambda: run_folder.fail(out, run, "x")):
        with pytest.raises(ConfigurationError, match="leads out of"):
            touch()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digest": "another"}'])
def test_a_damaged_mark_is_no_mark(tmp_path: Path, text: str) -> None:
    run = plan.search(comparison())[0]
    place = run_folder.prepare(tmp_path, run)
    (place / run_folder.DONE).write_text(text)
    assert run_folder.state(tmp_path, run) != "done"
    run_folder.finish(place, run, 1.0)
    assert run_folder.state(tmp_path, run) == "done"
    assert json.loads((place / run_folder.DONE).read_text())["seed"] == run.seed


def test_targets_close_together_have_folders_of_their_own() -> None:
    made = comparison(epsilon=[1, 1.0000001, 0.1])
    paths = {run.path for run in plan.search(made)}
    assert len(paths) == len(plan.search(made))


def test_fabricated_runs_are_plain() -> None:
    run = plan.search(comparison())[0]
    assert plain(run, "test", "Female") > plain(run, "test", "Male")
