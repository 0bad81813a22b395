"""Which runs a comparison is made of, and which grid point each contender goes on with."""

from __future__ import annotations

import pytest

from dplit.compare.config.recipe import Comparison, narrowed
from dplit.compare.run import plan
from dplit.compare.run.plan import Run
from tests.compare.fabricated import comparison, plain, rate


def law_chosen_points_get_all_seeds(made: Comparison, runs: list[Run]) -> None:
    """Every point is tried with the search's seeds, the chosen one with all, and nothing is run twice."""
    assert len({run.path for run in runs}) == len(runs) == plan.total(made)
    for contender, points in plan.contenders(made).items():
        seeds = {
            point: {run.seed for run in runs if run.contender == contender and run.point == point} for point in points
        }
        assert sorted(map(len, seeds.values())) == sorted([made.search_seeds] * (len(seeds) - 1) + [len(made.seeds)])
        assert set.union(*seeds.values()) == set(made.seeds)


@pytest.mark.parametrize("search_seeds", [1, 2, 3])
def test_chosen_points_get_all_seeds(search_seeds: int) -> None:
    made = comparison(search_seeds=search_seeds)
    chosen = plan.choose(made, rate)
    law_chosen_points_get_all_seeds(made, [*plan.search(made), *plan.remaining_seeds(made, chosen)])


def test_a_search_run_again_in_the_second_phase_is_caught() -> None:
    made = comparison()
    twice = plan.remaining_seeds(narrowed(made), plan.choose(made, rate)) + plan.search(made)
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


def test_targets_close_together_have_folders_of_their_own() -> None:
    made = comparison(epsilon=[1, 1.0000001, 0.1])
    paths = {run.path for run in plan.search(made)}
    assert len(paths) == len(plan.search(made))


def test_fabricated_runs_are_plain() -> None:
    run = plan.search(comparison())[0]
    assert plain(run, "test", "Female") > plain(run, "test", "Male")
