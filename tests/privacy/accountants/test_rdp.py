"""Rényi accounting, against another library's on its own orders and against exact values."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from dplit.privacy import Gaussian, Sampled
from dplit.privacy.accountants import rdp
from dplit.privacy.accountants.base import parts
from dplit.privacy.accountants.gaussian import gaussian_epsilon
from dplit.privacy.accountants.privacy_loss import Add, Remove
from dplit.privacy.accountants.rdp import RDP, inclusion_probability, moments, upper_epsilon
from tests.privacy.oracle import pld_epsilon

SAMPLED = [(0.01, 1.0, 1000, 1e-5), (0.2, 2.0, 50, 1e-6), (0.001, 0.7, 5000, 1e-8)]


def other(rate, noise, times, delta):
    """The other library's ε, with the orders of ours at hand."""
    accountant = RdpAccountant([*np.linspace(2, 12, 101), *range(13, 80)])
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), times)
    return accountant.get_epsilon(delta)


def law_renyi_is_sound_and_no_wider_than_the_other_library(rate, noise, times, delta):
    composition = [(Sampled(rate, [Gaussian(noise)]), times)]
    upper = RDP().epsilon(composition, delta).upper
    assert pld_epsilon(composition, delta) * (1 - 1e-5) <= upper
    assert upper == pytest.approx(other(rate, noise, times, delta), rel=0.02)


@pytest.mark.parametrize(("rate", "noise", "times", "delta"), SAMPLED)
def test_renyi_is_sound_and_no_wider_than_the_other_library(rate, noise, times, delta):
    law_renyi_is_sound_and_no_wider_than_the_other_library(rate, noise, times, delta)


@pytest.mark.parametrize("factor", [0.5, 1.1])
def test_mutant_moments_are_caught(monkeypatch, factor):
    monkeypatch.setattr(rdp.Moments, "total", property(lambda self: factor * np.asarray(self.times) @ self.each))
    with pytest.raises(AssertionError):
        law_renyi_is_sound_and_no_wider_than_the_other_library(*SAMPLED[0])


def test_mutant_conversion_is_caught(monkeypatch):
    """log(1/δ) twice in place of once: what a wrong conversion formula would do."""
    honest = rdp.Moments.epsilon
    monkeypatch.setattr(rdp.Moments, "epsilon", lambda self, delta: honest(self, math.sqrt(delta)))
    with pytest.raises(AssertionError):
        law_renyi_is_sound_and_no_wider_than_the_other_library(*SAMPLED[0])


def test_unsampled_gaussians_are_exact():
    bound = RDP().epsilon([(Gaussian(4.0), 9), (Gaussian(2.0), 1)], 1e-5)
    assert tuple(bound) == pytest.approx(gaussian_epsilon((9 / 16 + 1 / 4) ** -0.5, 1e-5), rel=1e-12)
    assert bound.lower > 0


def test_the_closed_form_is_taken_where_it_is_smaller(monkeypatch):
    """At a rate near 1 sampling gains nothing, and the closed form beats any Rényi bound."""
    composition = parts([(Sampled(0.999, [Gaussian(1.0)]), 1)])
    renyi = max(moments(kind, composition).epsilon(1e-5) for kind in (Remove, Add))
    assert upper_epsilon(composition, 1e-5) == gaussian_epsilon(1.0, 1e-5).upper < renyi


def test_tiny_noise_is_answered_without_moments():
    composition = [(Sampled(0.01, [Gaussian(1e-3)]), 10)]
    assert RDP().epsilon(composition, 1e-5).upper == pytest.approx(gaussian_epsilon(1e-3 / math.sqrt(10), 1e-5).upper)


def test_the_probability_to_be_included_at_all():
    assert inclusion_probability(()) == 0
    assert inclusion_probability(parts([(Sampled(0.1, [Gaussian(1.0)]), 2)])) == pytest.approx(1 - 0.9**2)
    assert inclusion_probability(parts([(Gaussian(1.0), 1), (Sampled(0.1, [Gaussian(1.0)]), 2)])) == 1


def test_the_larger_direction_counts(monkeypatch):
    composition = parts([(Sampled(0.05, [Gaussian(1.0)]), 100)])
    both = [moments(kind, composition).epsilon(1e-5) for kind in (Remove, Add)]
    assert upper_epsilon(composition, 1e-5) == max(both)
    assert both[0] != both[1]


def law_no_wider_than_the_other_library_at_small_delta(rate, noise, times, delta):
    """The other library with four times as many orders as can be the best; both are certified, so ours may be smaller."""
    largest = int(16 * noise * (noise * max(1.0, -math.log(rate)) + 10)) + 16
    accountant = RdpAccountant(np.unique(np.geomspace(2, largest, 150).astype(int)).tolist())
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), times)
    upper = RDP().epsilon([(Sampled(rate, [Gaussian(noise)]), times)], delta).upper
    assert upper <= 1.005 * accountant.get_epsilon(delta) + 1e-6


SMALL_DELTA = [(250 / 750_000, 4.0, 10_000, 1e-14), (1e-4, 8.0, 1000, 1e-18), (1e-3, 2.0, 1000, 1e-12)]


@pytest.mark.parametrize(("rate", "noise", "times", "delta"), SMALL_DELTA)
def test_no_wider_than_the_other_library_at_small_delta(rate, noise, times, delta):
    law_no_wider_than_the_other_library_at_small_delta(rate, noise, times, delta)


@given(
    rate=st.floats(-5, -0.7).map(lambda x: 10**x),
    noise=st.floats(-0.3, 1.0).map(lambda x: 10**x),
    times=st.integers(1, 20_000),
    delta=st.floats(-18, -6).map(lambda x: 10**x),
)
@settings(max_examples=15, deadline=None)
def test_no_wider_than_the_other_library_at_random(rate, noise, times, delta):
    law_no_wider_than_the_other_library_at_small_delta(rate, noise, times, delta)


def test_mutant_orders_that_end_early_are_caught(monkeypatch):
    monkeypatch.setattr(rdp, "_FURTHER", ())
    for case in SMALL_DELTA[:2]:
        with pytest.raises(AssertionError):
            law_no_wider_than_the_other_library_at_small_delta(*case)


def test_usual_orders_do_in_the_usual_range():
    """No more is computed where the best order is among the usual ones."""
    composition = parts([(Sampled(0.01, [Gaussian(1.0)]), 1000)])
    assert len(moments(Remove, composition, 1e-5).orders) == len(moments(Remove, composition).orders)
    assert moments(Remove, composition, 1e-5).has_the_best_order(1e-5)
