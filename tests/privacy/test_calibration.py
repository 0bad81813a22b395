import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dplit.errors import ConfigurationError
from dplit.privacy import Gaussian, Ledger, Sampled, Target, calibrate, epsilon, steps_within
from dplit.privacy.accountants import base, search
from dplit.privacy.accountants.search import MOST_STEPS
from tests.privacy.oracle import pld_epsilon

TARGETS = st.builds(Target, st.floats(0.1, 20), st.sampled_from([1e-8, 1e-5, 1e-3]))
RATES = st.floats(0.002, 0.5)
QUICK = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def law_calibration_stays_within(target, rate, steps, queries):
    """The noise found keeps the target, and 0.2 % less noise would not."""
    noise = calibrate(target, rate=rate, steps=steps, queries=queries)

    def upper(noise_multiplier):
        return epsilon([(Sampled(rate, map(Gaussian, [noise_multiplier, *queries])), steps)], target.delta).upper

    assert upper(noise) <= target.epsilon
    assert upper(noise * 0.998) > target.epsilon


def law_steps_stop_before_the_crossing(target, event, ledger=None):
    """As many steps as are granted keep the target, one more would pass it."""
    steps = steps_within(target, event, ledger)
    before = list(ledger.entries.get("train", {}).items()) if ledger else []
    assert epsilon([*before, (event, steps)], target.delta).upper <= target.epsilon
    assert epsilon([*before, (event, steps + 1)], target.delta).upper > target.epsilon


@QUICK
@given(TARGETS, RATES, st.integers(1, 2000))
def test_calibration_never_overshoots(target, rate, steps):
    law_calibration_stays_within(target, rate, steps, [])


@QUICK
@given(TARGETS, RATES, st.floats(0.6, 5))
def test_steps_never_overshoot(target, rate, noise):
    law_steps_stop_before_the_crossing(target, Sampled(rate, [Gaussian(noise)]))


@pytest.mark.parametrize(("queries", "eps"), [([10.0], 3.0), ([0.9], 3.0), ([5.0, 20.0, math.inf], 1.0)])
def test_queries_are_in_the_noise(queries, eps):
    law_calibration_stays_within(Target(eps, 1e-5), 0.01, 1000, queries)


def test_mutant_calibration_one_step_short(monkeypatch):
    real = base.validation.count
    monkeypatch.setattr(
        base.validation, "count", lambda name, value, **least: real(name, value, **least) - (name == "steps")
    )
    with pytest.raises(AssertionError):
        law_calibration_stays_within(Target(1.0, 1e-5), 0.1, 30, [])


@pytest.mark.parametrize("shift", [1, -1])
def test_mutant_steps_off_by_one(shift, monkeypatch):
    real = search._refined
    monkeypatch.setattr(search, "_refined", lambda excess, low: real(excess, low) + shift)
    with pytest.raises(AssertionError):
        law_steps_stop_before_the_crossing(Target(2.0, 1e-5), Sampled(0.01, [Gaussian(1.0)]))


def test_known_noise():
    """At ε = 0.1 the library's default mesh gives 19.1 where 9.8 is right."""
    noise = calibrate(Target(0.1, 1e-5), rate=0.01, steps=1000)
    assert 9.75 < noise <= 9.9
    assert pld_epsilon([(Sampled(0.01, [Gaussian(noise)]), 1000)], 1e-5, 5e-6) <= 0.1


def test_what_was_spent_already_counts():
    spent = Ledger()
    spent.record(Gaussian(2.0))
    target, event = Target(3.0, 1e-5), Sampled(0.02, [Gaussian(1.5)])
    law_steps_stop_before_the_crossing(target, event, spent)
    assert steps_within(target, event, spent) < steps_within(target, event)
    noise = calibrate(target, rate=0.02, steps=300, spent=[(Gaussian(2.0), 1)])
    assert noise > calibrate(target, rate=0.02, steps=300)
    assert epsilon([(Gaussian(2.0), 1), (Sampled(0.02, [Gaussian(noise)]), 300)], 1e-5).upper <= 3.0


def test_other_splits_only_need_to_stay_within():
    target, event = Target(3.0, 1e-5), Sampled(0.02, [Gaussian(1.5)])
    ledger = Ledger()
    ledger.record(Gaussian(2.0), split="validation")
    assert steps_within(target, event, ledger) == steps_within(target, event)
    ledger.record(Gaussian(0.5), split="validation")
    assert steps_within(target, event, ledger) == 0


def test_steps_at_the_ends():
    target = Target(1.0, 1e-5)
    assert steps_within(target, Gaussian(0.1)) == 0
    assert steps_within(target, Gaussian(math.inf)) == MOST_STEPS
    assert steps_within(target, Gaussian(1e9)) == MOST_STEPS
    exhausted = Ledger()
    exhausted.record(Gaussian(0.5))
    assert steps_within(target, Gaussian(math.inf), exhausted) == 0


def test_calibrated_steps_are_granted():
    target = Target(3.0, 1e-5)
    noise = calibrate(target, rate=0.01, steps=700)
    granted = steps_within(target, Sampled(0.01, [Gaussian(noise)]))
    assert 700 <= granted <= 703


def test_a_target_the_queries_spend_is_refused():
    with pytest.raises(ConfigurationError, match=r"^epsilon=1 cannot be reached: queries [^\n]*$"):
        calibrate(Target(1.0, 1e-5), rate=0.01, steps=1000, queries=[0.5])


def test_a_generous_target_gets_the_least_noise():
    assert calibrate(Target(1e7, 1e-5), rate=0.5, steps=1) == 0.02


@pytest.mark.parametrize("eps", [0, -1, math.inf, math.nan, None, "3", True, [3]])
def test_impossible_target(eps):
    with pytest.raises(ConfigurationError, match=r"^epsilon=[^\n]*$"):
        Target(eps, 1e-5)


@pytest.mark.parametrize("delta", [0, 1, math.nan, None, "1e-5"])
def test_impossible_delta(delta):
    with pytest.raises(ConfigurationError, match=r"^delta=[^\n]*$"):
        Target(1.0, delta)


@pytest.mark.parametrize("changes", [{"rate": 0}, {"steps": 0}, {"steps": 2.5}, {"steps": None}, {"queries": [0]}])
def test_impossible_plans(changes):
    with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
        calibrate(Target(1, 1e-5), **{"rate": 0.01, "steps": 10, "queries": [], **changes})


def test_a_target_is_a_value():
    assert Target(3, 1e-5) == Target(3.0, 1e-5)
    assert isinstance(Target(3, 1e-5).epsilon, float)


def test_calibration_is_fast():
    start = time.perf_counter()
    noise = calibrate(Target(2.3, 1e-5), rate=0.013, steps=1111)
    steps_within(Target(2.3, 1e-5), Sampled(0.013, [Gaussian(noise)]))
    assert time.perf_counter() - start < 10
