"""Numerical searches over a bound on ε: the least noise within a target, the last step before it is passed."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

LEAST_NOISE = 0.02
"""No noise multiplier below this is proposed."""
MOST_NOISE = 1e7
"""No noise multiplier above this is looked at."""
PRECISION = 2e-4
"""Relative precision of a noise multiplier."""
MOST_STEPS = 10**9
"""No number of steps above this is looked at."""


def least_noise(upper: Callable[[float], float], quick_upper: Callable[[float], float], limit: float) -> float | None:
    """Return about the least noise multiplier at which `upper` is at most `limit`, in five significant digits.

    Args:
        upper: the upper bound on ε at a noise multiplier, falling.
        quick_upper: a wider one that is cheaper.
        limit: ε, above 0.

    Returns:
        A noise multiplier for which `upper` was seen to hold; None where even `MOST_NOISE` is not enough.
    """
    enough = _enough_noise(upper, quick_upper, limit)
    if enough is None:
        return None
    noise = _rounded_up(_least_between(lambda log_noise: log_excess(upper(math.exp(log_noise)), limit), enough))
    while upper(noise) > limit:
        noise = _rounded_up(noise * (1 + PRECISION))
    return noise


def log_excess(upper: float, limit: float) -> float:
    """Return log(upper/limit), bounded below so that root finders see a finite number."""
    return math.log(max(upper, 1e-9 * limit) / limit)


def _enough_noise(upper: Callable[[float], float], quick_upper: Callable[[float], float], limit: float) -> float | None:
    """Return a noise multiplier that meets the limit: by the quick bound, unless only the other can tell."""
    for bound, factor in ((quick_upper, 1.05), (upper, 2.0)):
        if bound(MOST_NOISE) <= limit:
            low, high = LEAST_NOISE, MOST_NOISE
            while high > factor * low:
                middle = math.sqrt(low * high)
                low, high = (low, middle) if bound(middle) <= limit else (middle, high)
            return high
    return None


def _least_between(excess: Callable[[float], float], high: float) -> float:
    """Return about the least noise multiplier without excess, given one such; `excess` takes its logarithm."""
    low = high
    while excess(math.log(low)) <= 0:
        if low == LEAST_NOISE:
            return low
        high, low = low, max(0.8 * low, LEAST_NOISE)
    return math.exp(brentq(excess, math.log(low), math.log(high), xtol=PRECISION, rtol=1e-12))


def _rounded_up(number: float) -> float:
    """Round up to five significant digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 4)
    return float(f"{math.ceil(number / unit * (1 - 1e-12)) * unit:.5g}")


def most_steps(upper: Callable[[int], float], quick_upper: Callable[[int], float], limit: float) -> int:
    """Return the largest number of steps, `MOST_STEPS` at most, at which `upper` is at most `limit`.

    Args:
        upper: the upper bound on ε at a number of steps, rising; at 0 steps it must be within the limit.
        quick_upper: a wider one that is cheaper.
        limit: ε, above 0.
    """
    certain = _last(lambda steps: quick_upper(steps) <= limit, 0, MOST_STEPS + 1)
    return _refined(lambda steps: log_excess(upper(steps), limit), certain)


def _refined(excess: Callable[[int], float], low: int) -> int:
    """Return the last step without excess, given one such step."""
    high = low + 1
    while high <= MOST_STEPS and excess(high) <= 0:
        low, high = high, min(high + max(high // 4, 1), MOST_STEPS + 1)
    if high <= MOST_STEPS and high - low > 8:
        low, high = _narrowed(excess, low, high)
    return _last(lambda steps: excess(steps) <= 0, low, high)


def _narrowed(excess: Callable[[int], float], low: int, high: int) -> tuple[int, int]:
    """Shrink a bracket around the crossing of a curve that is nearly a power of the steps."""
    root = brentq(lambda x: excess(round(math.exp(x))), math.log(low), math.log(high), xtol=0.5 / high, rtol=1e-12)
    near, step = round(math.exp(root)), 1
    if excess(near) <= 0:
        while near + step < high and excess(near + step) <= 0:
            near, step = near + step, 2 * step
        return near, min(near + step, high)
    while near - step > low and excess(near - step) > 0:
        near, step = near - step, 2 * step
    return max(near - step, low), near


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the last whole number of [low, high) that holds, where `low` does and `high` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
