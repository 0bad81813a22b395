"""Rényi accounting, against another library's on its own orders and against exact values."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant

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
