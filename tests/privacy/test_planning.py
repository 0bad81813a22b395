"""Advice on batch size: every plan keeps the target, and the advised one is the smallest batch that is large enough."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dplit.errors import ConfigurationError
from dplit.privacy import Gaussian, Sampled, Target, epsilon, planning
from dplit.privacy.planning import CLOSE, Plan, advise

TARGET = Target(3.0, 1e-5)
RECORDS = 4000
SIZES = (64, 250, 1000, 4000)


def least(steps: int, records: int = RECORDS, target: Target = TARGET) -> float:
    """σ/N of steps on all records: T of them are one Gaussian of σ/√T, found by halving, apart from `calibrate`."""
    low, high = 0.01, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high)
        fits = epsilon([(Gaussian(middle / math.sqrt(steps)), 1)], target.delta).upper <= target.epsilon
        low, high = (low, middle) if fits else (middle, high)
    return high / records


def law_every_plan_keeps_the_target_and_wastes_little() -> None:
    for plan in advise(RECORDS, TARGET, epochs=[2], batch_sizes=SIZES, queries=[20.0]).plans:
        release = [Gaussian(plan.noise_multiplier), Gaussian(20.0)]
        spent = epsilon([(Sampled(plan.batch_size / RECORDS, release), plan.steps)], TARGET.delta).upper
        assert 0.98 * TARGET.epsilon < spent <= TARGET.epsilon
        assert plan.steps == 2 * math.ceil(RECORDS / plan.batch_size)
        assert plan.effective_noise == plan.noise_multiplier / plan.batch_size


def test_every_plan_keeps_the_target_and_wastes_little() -> None:
    law_every_plan_keeps_the_target_and_wastes_little()


def test_mutant_noise_for_a_smaller_rate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = planning.calibrate

    def wrong(target: Target, *, rate: float, **options: Any) -> float:
        return right(target, rate=rate / 2, **options)

    monkeypatch.setattr(planning, "calibrate", wrong)
    with pytest.raises(AssertionError):
        law_every_plan_keeps_the_target_and_wastes_little()


def law_best_is_the_smallest_batch_that_is_close(least_steps: int) -> None:
    sizes = (16, 50, 100, 250, 1000)
    found = advise(1000, TARGET, epochs=[20, 5], batch_sizes=sizes, least_steps=least_steps)
    assert [plan.epochs for plan in found.best] == [5, 20]
    for best in found.best:
        rows = [plan for plan in found.plans if plan.epochs == best.epochs]
        enough = [plan for plan in rows if plan.steps >= least_steps]
        close = [plan for plan in enough if plan.effective_noise <= (1 + CLOSE) * least(plan.steps, 1000)]
        wanted = min(close, key=lambda p: p.batch_size) if close else max(enough, key=lambda p: p.batch_size)
        assert best == wanted


@pytest.mark.parametrize("least_steps", [20, 100])
def test_best_is_the_smallest_batch_that_is_close(least_steps: int) -> None:
    law_best_is_the_smallest_batch_that_is_close(least_steps)


def test_mutant_the_least_noise_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole data set in every step has the least noise, and the fewest steps."""
    monkeypatch.setattr(planning, "_best", lambda plans, least_steps: min(plans, key=lambda p: p.effective_noise))
    with pytest.raises(AssertionError):
        law_best_is_the_smallest_batch_that_is_close(20)


def test_excess_is_over_steps_on_all_records() -> None:
    plans = advise(RECORDS, TARGET, epochs=[5], batch_sizes=SIZES).plans
    assert [plan.excess for plan in plans] == pytest.approx(
        [plan.effective_noise / least(plan.steps) - 1 for plan in plans], abs=2e-3
    )
    assert sorted((plan.excess for plan in plans), reverse=True) == [plan.excess for plan in plans]
    assert plans[-1].excess == 0


def plan(epochs: int, batch_size: int, steps: int, excess: float) -> Plan:
    return Plan(epochs, batch_size, batch_size / 1000, steps, 1.0, excess)


@pytest.mark.parametrize(
    ("plans", "advised", "reason"),
    [
        (
            [plan(1, 8, 250, 0.3), plan(1, 16, 200, 0.05)],
            1,
            "smallest batch compared whose effective noise is within 10%",
        ),
        ([plan(1, 8, 250, 0.3), plan(1, 16, 90, 0.05)], 0, "largest batch that leaves 150 steps in 1 epochs"),
        ([plan(1, 8, 250, 0.3), plan(1, 16, 200, 0.2)], 1, "largest batch compared"),
        ([plan(1, 8, 50, 0.3), plan(1, 16, 25, 0.05)], 0, "no batch leaves 150 steps"),
        ([plan(1, 8, 500, 0.08), plan(9, 8, 4500, 0.01)], 0, "smallest batch"),
        ([plan(1, 8, 500, 0.5), plan(9, 8, 4500, 0.2)], 1, "largest batch compared"),
    ],
)
def test_what_is_advised_and_why(plans: list[Plan], advised: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = {(each.epochs, each.batch_size): each for each in plans}
    monkeypatch.setattr(planning, "_plan", lambda records, target, size, epochs, *settings: ready[epochs, size])
    epochs, sizes = sorted({each.epochs for each in plans}), sorted({each.batch_size for each in plans})
    found = advise(1000, TARGET, epochs=epochs, batch_sizes=sizes)
    assert found.advised == plans[advised]
    assert reason in found.reason


@pytest.mark.parametrize("records", [1, 2, 3, 100, 257, 1024, 10**6])
def test_powers_of_two_up_to_all_records(records: int) -> None:
    sizes = planning._powers_of_two(records)
    assert sizes[-1] == records
    assert sizes == sorted(set(sizes))
    assert all(math.log2(size).is_integer() for size in sizes[:-1])
    assert sizes[0] <= max(1, records / 256)
    assert len(sizes) <= 11


def test_plans_that_queries_make_impossible_are_left_out() -> None:
    sizes = [plan.batch_size for plan in advise(1000, TARGET, epochs=[3], batch_sizes=[20, 1000], queries=[2.0]).plans]
    assert sizes == [20]


def test_progress_is_told() -> None:
    told = []
    advise(100, TARGET, epochs=[1, 2], batch_sizes=[100], progress=lambda done, of: told.append((done, of)))
    assert told == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": []}, "epochs=()"),
        ({"epochs": [1.5]}, "epochs=1.5"),
        ({"batch_sizes": []}, "batch_size=()"),
        ({"batch_sizes": [4001]}, "batch_size=4001"),
        ({"least_steps": 0}, "least_steps=0"),
        ({"queries": [-1.0]}, "noise_multiplier=-1.0"),
        ({"queries": [0.1], "batch_sizes": [4000]}, "cannot be reached"),
    ],
)
def test_bad_arguments_are_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        advise(RECORDS, TARGET, **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
