"""The closed form of one Gaussian, against the formula it inverts and against another library."""

import math

import pytest
from dp_accounting import get_epsilon_gaussian
from scipy.stats import norm

from dplit.privacy.accountants import gaussian
from dplit.privacy.accountants.gaussian import gaussian_epsilon

CASES = [(noise, delta) for noise in (0.3, 1.0, 4.0, 30.0) for delta in (1e-3, 1e-5, 1e-9)]


def delta_at(noise, eps):
    """δ of one Gaussian at ε, as Balle and Wang state it."""
    mu = 1 / noise
    return norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu))


def law_upper_and_lower_enclose_the_root(noise, delta):
    bound = gaussian_epsilon(noise, delta)
    assert delta_at(noise, bound.upper) <= delta * (1 + 1e-9)
    assert bound.lower == 0 or delta_at(noise, bound.lower) >= delta * (1 - 1e-9)
    assert delta_at(noise, max(0.0, bound.upper * (1 - 1e-4))) >= delta
    assert bound.lower <= bound.estimate <= bound.upper


@pytest.mark.parametrize(("noise", "delta"), CASES)
def test_upper_and_lower_enclose_the_root(noise, delta):
    law_upper_and_lower_enclose_the_root(noise, delta)


@pytest.mark.parametrize(("noise", "delta"), CASES)
def test_agrees_with_another_library(noise, delta):
    assert gaussian_epsilon(noise, delta).estimate == pytest.approx(
        get_epsilon_gaussian(noise, delta), rel=1e-6, abs=1e-9
    )


def test_any_delta_has_an_answer():
    answers = [gaussian_epsilon(1.0, 10.0**power).upper for power in (-1, -10, -100, -300)]
    assert answers == sorted(answers)
    assert answers[-1] == pytest.approx(0.5 + math.sqrt(2 * 300 * math.log(10)), rel=0.02)


def test_much_noise_costs_nothing_and_too_little_is_infinite():
    assert gaussian_epsilon(1e6, 1e-3).upper == 0.0
    assert gaussian_epsilon(1e-200, 1e-5).upper == math.inf


def test_mutant_without_the_second_term_is_caught(monkeypatch):
    """Φ(μ/2 - ε/μ) ≤ δ alone is a wider bound; the root with the sign of the second term turned is a narrower one."""
    honest = gaussian.log_ndtr
    monkeypatch.setattr(gaussian, "log_ndtr", lambda x: honest(x) - 0.01)
    with pytest.raises(AssertionError):
        law_upper_and_lower_enclose_the_root(1.0, 1e-5)
