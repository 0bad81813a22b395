"""The privacy loss of a Poisson-subsampled Gaussian, in both directions.

With Q = N(0, σ²), P = (1-q) N(0, σ²) + q N(1, σ²) and ℓ(x) = (2x - 1)/(2σ²), the log-ratio of P to Q is
y(x) = log(1 - q + q e^ℓ(x)). Removing a record gives the loss y(x) with x ~ P; adding one gives -y(x) with x ~ Q.
Source: Gopi, Lee and Wutschitz 2021, arXiv:2106.02848; the library only has the first.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from prv_accountant import PrivacyRandomVariable
from scipy.special import ndtr

Array = NDArray[np.float64]

SMALLEST_NOISE = 0.02
"""Below this noise multiplier the loss grid would be too large."""
_REACH = 40.0
"""Standard deviations beyond which a normal tail counts as empty (1e-349)."""


@dataclass(frozen=True)
class Loss(PrivacyRandomVariable):  # type: ignore[misc]
    """One direction's privacy loss as a random variable of prv_accountant.

    Attributes:
        rate: inclusion probability, in (0, 1].
        noise_multiplier: standard deviation / L2 sensitivity, at least `SMALLEST_NOISE` and finite.
    """

    rate: float
    noise_multiplier: float

    sign: ClassVar[float]
    """+1 if the loss is y, -1 if it is -y."""
    tilt: ClassVar[float]
    """The loss is distributed as ±y under Q tilted by e^(tilt · y)."""

    def _standardised(self, y: Array) -> Array:
        """Return the x/σ at which the log-ratio is `y`; -∞ where it is never so small."""
        if self.rate == 1:
            ratio = y
        else:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                near = np.log1p(np.maximum(np.expm1(np.minimum(y, 1)) / self.rate, -1))
                far = y - math.log(self.rate) + np.log1p((self.rate - 1) * np.exp(-np.maximum(y, 1)))
            ratio = np.where(y < 1, near, far)
        return self.noise_multiplier * ratio + 1 / (2 * self.noise_multiplier)

    @abstractmethod
    def tails(self, t: Array) -> tuple[Array, Array]:
        """Return P(loss ≤ t) and P(loss > t), each to full relative precision."""

    def cdf(self, t: Array) -> Array:
        """Return P(loss ≤ t)."""
        return self.tails(np.asarray(t, dtype=np.float64))[0]

    def probability(self, a: Array, b: Array) -> Array:
        """Return P(a < loss ≤ b), from the lower or the upper tail, whichever is smaller."""
        (below_a, above_a), (below_b, above_b) = self.tails(a), self.tails(b)
        return np.where(below_b < 0.5, below_b - below_a, above_a - above_b)

    @cached_property
    def _grid(self) -> tuple[Array, Array]:
        """Nodes y and log-weights of an integral over Q."""
        return self._grid_up_to(_REACH)

    def _grid_up_to(self, peak: float) -> tuple[Array, Array]:
        """Nodes y and log-weights of an integral over Q whose integrand peaks at u ≤ `peak` standard deviations.

        The trapezoid rule converges like exp(-2πa/step) for an integrand analytic within a of the real line; here
        a = πσ standard deviations, so a step of min(1, σ)/4 leaves nothing to see.
        """
        room, step = 10 + 1 / self.noise_multiplier, min(1.0, self.noise_multiplier) / 4
        u = np.arange(-_REACH - room, peak + room, step)
        ratio = u / self.noise_multiplier - 1 / (2 * self.noise_multiplier**2)
        rest = math.log1p(-self.rate) if self.rate < 1 else -math.inf
        return np.logaddexp(rest, math.log(self.rate) + ratio), -u * u / 2 + math.log(step / math.sqrt(2 * math.pi))

    @property
    def largest_order(self) -> float:
        """The largest λ that `log_mgf` answers on its usual grid: the integrand's peak, at u ≤ (λ+1)/σ, stays on it."""
        return _REACH * self.noise_multiplier

    def log_mgf(self, orders: Array) -> Array:
        """Return log E e^(λ · loss) for `orders` λ of shape (k,); equals (α-1) times the Rényi divergence, α = λ+1."""
        largest = float(orders.max(initial=0.0))
        y, weight = self._grid if largest <= self.largest_order else self._grid_up_to(largest / self.noise_multiplier)
        return np.array([log_sum_exp((self.sign * order + self.tilt) * y + weight) for order in orders])

    def clipped_mean(self, low: float, high: float) -> float:
        """Return E[min(max(loss, low), high)]."""
        y, weight = self._grid
        return float(np.clip(self.sign * y, low, high) @ np.exp(self.tilt * y + weight))

    def mean(self) -> float:
        """Return E[loss]."""
        return self.clipped_mean(-math.inf, math.inf)

    def rdp(self, alpha: float) -> float:
        """Return the Rényi divergence of order `alpha` > 1."""
        return float(self.log_mgf(np.array([alpha - 1]))[0]) / (alpha - 1)


class Remove(Loss):
    """The loss when a record is removed: log P/Q under P."""

    sign, tilt = 1.0, 1.0

    def tails(self, t: Array) -> tuple[Array, Array]:
        """Return P(loss ≤ t) and P(loss > t)."""
        z, shift, q = self._standardised(t), 1 / self.noise_multiplier, self.rate
        return (1 - q) * ndtr(z) + q * ndtr(z - shift), (1 - q) * ndtr(-z) + q * ndtr(shift - z)


class Add(Loss):
    """The loss when a record is added: log Q/P under Q."""

    sign, tilt = -1.0, 0.0

    def tails(self, t: Array) -> tuple[Array, Array]:
        """Return P(loss ≤ t) and P(loss > t)."""
        z = self._standardised(-t)
        return ndtr(-z), ndtr(z)


def log_sum_exp(exponents: Array) -> float:
    """Return log Σ e^exponents, -∞ allowed among them."""
    largest = float(exponents.max())
    return largest + math.log(np.exp(exponents - largest).sum())
