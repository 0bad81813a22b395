"""The searches, on bounds whose answer is known: ε = steps · c/σ, so the least noise and the last step are exact."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dplit.privacy.accountants import search
from dplit.privacy.accountants.search import LEAST_NOISE, MOST_STEPS, least_noise, most_steps

SCALES = st.floats(1e-3, 1e3)
LIMITS = st.floats(0.01, 100)


def law_least_noise(scale, limit, slack):
    """Within the limit, and at most 0.1 % above the least noise c/limit."""
    noise = least_noise(lambda noise: scale / noise, lambda noise: slack * scale / noise, limit)
    least = max(scale / limit, LEAST_NOISE)
    assert scale / noise <= limit
    assert least * (1 - 1e-12) <= noise <= least * 1.001
    assert float(f"{noise:.5g}") == noise


@given(SCALES, LIMITS, st.floats(1, 3))
def test_least_noise(scale, limit, slack):
    law_least_noise(scale, limit, slack)


@pytest.mark.parametrize("mutant", [lambda noise: noise * 1.01, lambda noise: noise * 1.0001234567])
def test_mutant_rounding_is_caught(monkeypatch, mutant):
    monkeypatch.setattr(search, "_rounded_up", mutant)
    with pytest.raises(AssertionError):
        law_least_noise(5.0, 2.0, 1.5)


def test_no_noise_is_enough():
    assert least_noise(lambda noise: 1.0 + 1 / noise, lambda noise: 1.0 + 2 / noise, 0.5) is None


def test_a_quick_bound_that_never_meets_is_not_relied_on():
    assert least_noise(lambda noise: 5 / noise, lambda noise: math.inf, 2.0) == pytest.approx(2.5, rel=1e-3)


def law_most_steps(cost, limit, slack):
    """`steps` keep the limit and one more would pass it."""
    steps = most_steps(lambda steps: cost * steps**0.6, lambda steps: slack * cost * steps**0.6, limit)
    assert cost * steps**0.6 <= limit
    assert steps == MOST_STEPS or cost * (steps + 1) ** 0.6 > limit


@given(SCALES, LIMITS, st.floats(1, 3))
def test_most_steps(cost, limit, slack):
    law_most_steps(cost, limit, slack)


@pytest.mark.parametrize("shift", [1, -1])
def test_mutant_one_step_off_is_caught(monkeypatch, shift):
    honest = search._refined
    monkeypatch.setattr(search, "_refined", lambda excess, low: honest(excess, low) + shift)
    with pytest.raises(AssertionError):
        law_most_steps(0.1, 3.0, 1.2)


def test_steps_that_cost_nothing_have_an_end():
    assert most_steps(lambda steps: 0.0, lambda steps: 0.0, 1.0) == MOST_STEPS
    assert most_steps(lambda steps: float(steps), lambda steps: float(steps), 0.5) == 0
