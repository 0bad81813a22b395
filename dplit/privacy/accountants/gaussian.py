"""The Gaussian mechanism without sampling, in closed form."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from dplit.privacy.accountants.base import Bound


def _gaussian(noise_multiplier: float, delta: float) -> Bound:
    """Return ε of one Gaussian mechanism in closed form: Balle and Wang 2018, arXiv:1805.06530, theorem 8."""
    mu = 1 / noise_multiplier

    def excess(eps: float) -> float:
        first, second = log_ndtr(mu / 2 - eps / mu), log_ndtr(-mu / 2 - eps / mu)
        return float(first + np.log(-np.expm1(min(eps + second - first, -1e-300))) - math.log(delta))

    if 2 * ndtr(mu / 2) - 1 <= delta:
        return Bound(0.0, 0.0, 0.0)
    most = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    found = brentq(excess, 0.0, most, xtol=1e-300, rtol=1e-12) if math.isfinite(most) else math.inf
    return Bound(found * (1 - 1e-9), found, found * (1 + 1e-9))
