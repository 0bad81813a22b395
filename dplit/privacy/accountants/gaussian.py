"""The Gaussian mechanism without sampling, in closed form."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from dplit.privacy.accountants.base import Bound

_ROUNDING = 1e-9
"""Relative room left on both sides for rounding and the root finder's tolerance."""


def gaussian_epsilon(noise_multiplier: float, delta: float) -> Bound:
    """Return ε of one Gaussian mechanism at `delta`; the upper bound is infinite where the noise is too small for float64.

    With μ = 1/σ it is the root of δ = Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ), in logarithms so that any δ can be told apart.

    Source: Balle and Wang 2018, arXiv:1805.06530, theorem 8.

    >>> round(gaussian_epsilon(1.0, 1e-5).estimate, 4)
    4.3772
    """
    mu = 1 / noise_multiplier

    def log_excess_delta(eps: float) -> float:
        first, second = log_ndtr(mu / 2 - eps / mu), log_ndtr(-mu / 2 - eps / mu)
        return float(first + np.log(-np.expm1(min(eps + second - first, -1e-300))) - math.log(delta))

    if 2 * ndtr(mu / 2) - 1 <= delta:
        return Bound(0.0, 0.0, 0.0)
    most = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    root = brentq(log_excess_delta, 0.0, most, xtol=1e-300, rtol=1e-12) if math.isfinite(most) else math.inf
    return Bound(root * (1 - _ROUNDING), root, root * (1 + _ROUNDING))
