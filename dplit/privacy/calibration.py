"""From a privacy target to a noise multiplier, or to a number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scipy.optimize import brentq

from dplit import validation
from dplit.errors import ConfigurationError
from dplit.privacy.accountants.base import Composition
from dplit.privacy.accountants.privacy_loss import SMALLEST_NOISE
from dplit.privacy.accountants.prv import epsilon, simple_upper
from dplit.privacy.events import Event, Gaussian, Sampled

if TYPE_CHECKING:
    from dplit.privacy.ledger import Ledger

MOST_STEPS = 10**9
"""`steps_within` looks no further."""
_MOST_NOISE = 1e7
_CLOSE = 2e-4
"""Relative precision of a noise multiplier."""


@dataclass(frozen=True)
class Target:
    """The (ε, δ) that training may spend, for add or remove one record.

    Raises:
        ConfigurationError: ε is not a finite number above 0, or δ not one between 0 and 1.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        eps = validation.positive("epsilon", self.epsilon)
        if eps == math.inf:
            raise ConfigurationError("epsilon=inf is no privacy target; give a finite number")
        object.__setattr__(self, "epsilon", eps)
        object.__setattr__(self, "delta", validation.delta(self.delta))

    def allows(self, composition: Composition) -> bool:
        """Whether the certified ε of `composition` stays within the target."""
        return epsilon(composition, self.delta).upper <= self.epsilon


def calibrate(
    target: Target,
    *,
    rate: float,
    steps: int,
    queries: Iterable[float] = (),
    spent: Iterable[tuple[Event, int]] = (),
) -> float:
    """Return the least noise multiplier of the gradient with which `steps` steps stay within `target`.

    Args:
        target: never exceeded, in the certified upper bound.
        rate: inclusion probability of a record in a step, in (0, 1].
        steps: number of steps.
        queries: noise multipliers of what every step asks of the same draw. Jointly with the gradient's σ they are
            one release, 1/σ_eff² = 1/σ² + Σ_j 1/σ_j².
        spent: events charged to the same records besides the steps.

    Returns:
        σ, within about 0.1 % of the least one, in five significant digits; at least 0.02.

    Raises:
        ConfigurationError: arguments out of range, or a target that the queries and `spent` already pass.
    """
    steps, beside = validation.count("steps", steps), tuple(spent)
    asked = [Gaussian(noise_multiplier) for noise_multiplier in queries]

    def composition(noise_multiplier: float) -> Composition:
        return [(Sampled(rate, [Gaussian(noise_multiplier), *asked]), steps), *beside]

    def excess(log_noise: float) -> float:
        return _log_excess(epsilon(composition(math.exp(log_noise)), target.delta).upper, target)

    noise = _rounded_up(_root(excess, _enough_noise(target, composition)))
    while not target.allows(composition(noise)):
        noise = _rounded_up(noise * (1 + _CLOSE))
    return noise


def _root(excess: Callable[[float], float], high: float) -> float:
    """Return about the least noise multiplier without excess, given one such."""
    low = high
    while excess(math.log(low)) <= 0:
        if low == SMALLEST_NOISE:
            return low
        high, low = low, max(0.8 * low, SMALLEST_NOISE)
    return math.exp(brentq(excess, math.log(low), math.log(high), xtol=_CLOSE, rtol=1e-12))


def _enough_noise(target: Target, composition: Callable[[float], Composition]) -> float:
    """Return some noise multiplier that meets the target: from cheap bounds, unless only the mesh can tell."""

    def cheaply(noise_multiplier: float) -> bool:
        return simple_upper(composition(noise_multiplier), target.delta) <= target.epsilon

    def truly(noise_multiplier: float) -> bool:
        return target.allows(composition(noise_multiplier))

    if cheaply(_MOST_NOISE):
        return _bisected(cheaply, 1.05)
    if truly(_MOST_NOISE):
        return _bisected(truly, 2.0)
    rest = epsilon(composition(math.inf), target.delta).upper
    raise ConfigurationError(
        f"epsilon={target.epsilon:g} cannot be reached: queries and earlier releases alone spend {rest:.4g}; "
        "give them more noise, take fewer steps, or raise epsilon"
    )


def _bisected(meets: Callable[[float], bool], factor: float) -> float:
    low, high = SMALLEST_NOISE, _MOST_NOISE
    while high > factor * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def _log_excess(upper: float, target: Target) -> float:
    return math.log(max(upper, 1e-9 * target.epsilon) / target.epsilon)


def _rounded_up(number: float) -> float:
    """Round up to five significant digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 4)
    return float(f"{math.ceil(number / unit * (1 - 1e-12)) * unit:.5g}")


def steps_within(target: Target, event: Event, ledger: Ledger | None = None, split: str = "train") -> int:
    """Return how many more times `event` can be recorded with the certified ε still within `target`.

    Args:
        target: not to be exceeded.
        event: one step.
        ledger: what was spent already; nothing if None.
        split: where the steps will be recorded. Other splits hold disjoint records, so they only need to stay within
            the target themselves.

    Returns:
        The largest number of steps, 0 if there is no room for one, `MOST_STEPS` if there is room for that many.
    """
    entries: Any = ledger.entries if ledger else {}
    if not all(target.allows(events) for name, events in entries.items() if name != split):
        return 0
    before = tuple(entries.get(split, {}).items())

    def upper(steps: int) -> float:
        return epsilon([*before, (event, steps)], target.delta).upper

    def cheap(steps: int) -> float:
        return simple_upper([*before, (event, steps)], target.delta)

    if upper(0) > target.epsilon:
        return 0
    certain = _last(lambda steps: cheap(steps) <= target.epsilon, 0, MOST_STEPS + 1)
    return _refined(lambda steps: _log_excess(upper(steps), target), certain)


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
