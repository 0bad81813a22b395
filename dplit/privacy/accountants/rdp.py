"""Moment bounds of a composed privacy loss: cheap upper bounds on ε, and how wide a mesh must reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dplit.privacy.accountants.privacy_loss import Array, Loss

Part = tuple[float, float, int]
"""(rate, noise multiplier, times) of one subsampled Gaussian in a composition."""

_ORDERS = 200
_ROUNDING_ROOM = 14.0
"""Undoing a tilt may multiply float64's rounding by e^14 δ; by e^28 δ is the most that is accepted afterwards."""
_TILTED_ROOM = 12.0
"""A tilted loss may keep e^-12 of its mass beyond the mesh: that mass only ever adds to δ."""


@dataclass(frozen=True)
class Moments:
    """The losses of one direction, how often each is composed, and the log-moments of their sum S.

    Attributes:
        losses: one per part of the composition.
        times: how often each occurs.
        orders: λ > 0, ascending, shape (k,).
        each: log E e^(λ · loss), shape (losses, k).
    """

    losses: tuple[Loss, ...]
    times: tuple[int, ...]
    orders: Array
    each: Array

    @property
    def total(self) -> Array:
        """Log E e^(λS), shape (k,)."""
        return np.asarray(self.times, dtype=np.float64) @ self.each

    def renyi(self, delta: float) -> float:
        """Return an upper bound on ε: Canonne, Kamath and Steinke 2020, arXiv:2004.00010, proposition 12."""
        alpha = self.orders + 1
        bounds = (self.total - math.log(delta) - np.log(alpha)) / self.orders + np.log1p(-1 / alpha)
        return max(float(bounds.min()), 0.0)

    def tilt(self, delta: float, eps: float) -> float:
        """Return the smallest order λ ≥ 0 at which S, tilted by e^(λS), resolves `delta` at `eps` in float64.

        Undoing the tilt multiplies rounding by E e^(λS) e^(-λ eps), which is held to 1e6 times `delta` if it can be.
        """
        if self._growth(0.0, eps, delta) <= _ROUNDING_ROOM:
            return 0.0
        growth = (self.total - self.orders * eps - math.log(delta))[: -_ORDERS // 12]
        enough = np.flatnonzero(growth <= _ROUNDING_ROOM)
        return float(self.orders[enough[0] if len(enough) else growth.argmin()])

    def resolves(self, delta: float, eps: float, tilt: float) -> bool:
        """Whether rounding under the tilt is small beside `delta` at `eps`."""
        return self._growth(tilt, eps, delta) <= 2 * _ROUNDING_ROOM

    def _growth(self, tilt: float, eps: float, delta: float) -> float:
        return float(self.total[self.orders == tilt].sum()) - tilt * eps - math.log(delta)

    def reach(self, tail: float, tilt: float) -> float:
        """Return a width that S or any part of it exceeds with probability at most `tail`, by Chernoff.

        The same holds of each single loss with `tail` divided by its count, and S tilted by order `tilt` stays inside
        but for e^-12.
        """
        room, further = -math.log(tail), self.orders > tilt
        single = ((self.each + np.log(self.times)[:, None] + room) / self.orders).min(1).max()
        rise = self.total[further] - self.total[self.orders == tilt].sum() + _TILTED_ROOM
        tilted = (rise / (self.orders[further] - tilt)).min()
        return float(max(((self.total + room) / self.orders).min(), single, tilted))


@lru_cache(maxsize=256)
def _log_mgf(loss: Loss, largest: float) -> Array:
    return loss.log_mgf(_orders(largest))


def _orders(largest: float) -> Array:
    return np.geomspace(1e-8, largest, _ORDERS)


def moments(kind: type[Loss], composition: Sequence[Part]) -> Moments:
    """Return the moments of all losses of one direction; `kind` is `Remove` or `Add`."""
    losses = tuple(kind(rate, noise) for rate, noise, _ in composition)
    largest = min(loss.largest_order for loss in losses)
    each = np.array([_log_mgf(loss, largest) for loss in losses])
    return Moments(losses, tuple(times for _, _, times in composition), _orders(largest), each)
