"""The privacy loss of a subsampled Gaussian in both directions, against prv_accountant's and against its own moments."""

import math

import numpy as np
import pytest
from prv_accountant import PoissonSubsampledGaussianMechanism
from scipy.integrate import quad
from scipy.stats import norm

from dplit.privacy.accountants.privacy_loss import Add, Remove, log_sum_exp


@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.3])
@pytest.mark.parametrize("noise", [0.5, 1.0, 7.0])
def test_losses_are_the_librarys_and_its_mirror(rate, noise):
    """Remove has the library's distribution; Add is Remove seen from Q: dAdd(-t) = e^(-t) dRemove(t)."""
    t = np.linspace(-2, 4, 121)
    remove, add = Remove(rate, noise), Add(rate, noise)
    np.testing.assert_allclose(
        remove.cdf(t), PoissonSubsampledGaussianMechanism(rate, noise).cdf(t.astype(np.longdouble)), atol=1e-12
    )
    fine = np.linspace(-0.3, 3, 200001)
    middle = (fine[1:] + fine[:-1]) / 2
    seen = (remove.probability(fine[:-1], fine[1:]) * np.exp(-middle)).sum()
    assert add.probability(np.array([-3.0]), np.array([0.3]))[0] == pytest.approx(seen, rel=1e-6)


@pytest.mark.parametrize("kind", [Remove, Add])
@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.5, 0.3), (1.0, 2.0), (0.001, 40.0)])
def test_moments(kind, rate, noise):
    """A privacy loss has E e^-loss = 1, and its mean is the slope of its log-moments."""
    loss = kind(rate, noise)
    assert loss.log_mgf(np.array([-1.0]))[0] == pytest.approx(0, abs=1e-9)
    slope = np.diff(loss.log_mgf(np.array([-1e-4, 1e-4])))[0] / 2e-4
    assert loss.mean() == pytest.approx(slope, rel=1e-5, abs=1e-10)
    if rate == 1:
        assert loss.mean() == pytest.approx(1 / (2 * noise**2))
    if kind is Remove and rate < 1:
        reference = PoissonSubsampledGaussianMechanism(rate, noise).rdp(2)
        assert loss.rdp(2.0) == pytest.approx(reference, rel=1e-6)


def log_ratio(x, rate, noise):
    """log P/Q at x, from the densities themselves."""
    return math.log1p(rate * math.expm1((2 * x - 1) / (2 * noise**2)))


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.4, 0.8), (1.0, 2.0)])
def test_moments_are_integrals_over_the_densities(rate, noise):
    """E e^(λ loss) over P or Q, by adaptive quadrature in place of the trapezoid rule in privacy_loss."""

    def q(x):
        return norm.pdf(x, 0, noise)

    def p(x):
        return (1 - rate) * q(x) + rate * norm.pdf(x, 1, noise)

    def moment(density, order):
        span = {"points": [0.0, 1.0, order + 1], "limit": 400}
        return quad(lambda x: density(x) * math.exp(order * log_ratio(x, rate, noise)), -30, 30, **span)[0]

    for order in (0.5, 1.0, 3.0):
        remove, add = math.log(moment(p, order)), math.log(moment(q, -order))
        assert Remove(rate, noise).log_mgf(np.array([order]))[0] == pytest.approx(remove, rel=1e-6, abs=1e-9)
        assert Add(rate, noise).log_mgf(np.array([order]))[0] == pytest.approx(add, rel=1e-6, abs=1e-9)


def test_mutant_directions_swapped_is_caught(monkeypatch):
    monkeypatch.setattr(Remove, "tilt", 0.0)
    with pytest.raises(AssertionError):
        test_moments(Remove, 0.5, 0.3)
    with pytest.raises(AssertionError):
        test_moments_are_integrals_over_the_densities(0.4, 0.8)


def test_tails_add_up_and_keep_small_numbers():
    """Both tails are exact to relative precision where 1 - cdf would have lost everything."""
    for loss in (Remove(0.01, 1.0), Add(0.01, 1.0)):
        below, above = loss.tails(np.linspace(-0.005, 5, 50))
        np.testing.assert_allclose(below + above, 1.0, atol=1e-12)
    (_, above) = Remove(0.01, 1.0).tails(np.array([12.0]))
    assert 0 < above[0] < 1e-30


def test_log_sum_exp_of_extremes():
    assert log_sum_exp(np.array([-np.inf, 0.0])) == 0.0
    assert log_sum_exp(np.array([1000.0, 1000.0])) == pytest.approx(1000 + math.log(2))
