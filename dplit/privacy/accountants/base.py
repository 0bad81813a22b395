"""What an accountant is: from a composition of events and a δ to a certified ε, and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from dplit import validation
from dplit.errors import ConfigurationError, PrivacyError
from dplit.privacy.accountants.search import least_noise
from dplit.privacy.events import Event, Gaussian, Sampled, joint

if TYPE_CHECKING:
    from dplit.privacy.calibration import Target

Composition = Mapping[Event, int] | Iterable[tuple[Event, int]]
"""What was released: events and how often each, as a mapping or as pairs."""

_SMALLEST_DELTA = 1e-100
"""`Accountant.delta` looks no further down."""
_DELTA_PRECISION = 1e-3
"""Relative precision of `Accountant.delta`."""


class Bound(NamedTuple):
    """What is known of the smallest true ε: certified from both sides, with the computed value in between."""

    lower: float
    estimate: float
    upper: float


class Part(NamedTuple):
    """One Poisson-subsampled Gaussian of a composition."""

    rate: float
    """Inclusion probability of a record, in (0, 1]."""
    noise_multiplier: float
    """Standard deviation over L2 sensitivity, above 0 and finite."""
    times: int
    """How often it was released, at least 1."""


class Accountant(ABC):
    """Answers what a composition of events costs, for add or remove one record.

    An accountant is one file in `dplit/privacy/accountants`: a subclass with a `name`, a `description` and `epsilon`;
    ledgers, commands and the contract tests find it by itself. It has no state, and is made without arguments.
    """

    name: ClassVar[str]
    """What selects it: `Ledger(accountant=name)`, `python -m dplit.account --accountant NAME`."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for privacy statements: the method, and that its figure is an upper bound."""

    @abstractmethod
    def epsilon(self, composition: Composition, delta: float) -> Bound:
        """Return the ε of a composition at `delta`.

        Args:
            composition: a mapping or pairs (event, how many times).
            delta: in (0, 1).

        Returns:
            `Bound`; `upper` is the guarantee.

        Raises:
            ConfigurationError: `delta` outside (0, 1), or something that is no event.
            PrivacyError: the composition has no finite bound in floating point.
        """

    def quick_epsilon(self, composition: Composition, delta: float) -> float:
        """Return an upper bound on ε that may be wider than `epsilon`'s where that saves time; raises as `epsilon` does."""
        return self.epsilon(composition, delta).upper

    def delta(self, composition: Composition, epsilon: float) -> float:
        """Return a certified δ: one at which the upper bound on ε is at most `epsilon`.

        It is found by bisection, within 0.1 % of the smallest such δ; 1 if there is none below 1, and never less than
        1e-100.

        Args:
            composition: a mapping or pairs (event, how many times).
            epsilon: at least 0 and finite.

        Raises:
            ConfigurationError: `epsilon` is no such number, or something is no event.
        """
        eps, composition = validation.not_negative("epsilon", epsilon), listed(composition)

        def holds(log_delta: float) -> bool:
            try:
                return self.epsilon(composition, math.exp(log_delta)).upper <= eps
            except PrivacyError:
                return False

        low, high = math.log(_SMALLEST_DELTA), 0.0
        if holds(low):
            return math.exp(low)
        while high - low > _DELTA_PRECISION:
            middle = (low + high) / 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return math.exp(high)

    def calibrate(
        self,
        target: Target,
        *,
        rate: float,
        steps: int,
        queries: Iterable[float] = (),
        spent: Iterable[tuple[Event, int]] = (),
    ) -> float:
        """Return the least noise multiplier of the gradient with which `steps` steps stay within `target`.

        Args:
            target: (ε, δ), never exceeded by the upper bound.
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
        steps, earlier = validation.count("steps", steps), tuple(spent)
        asked = [Gaussian(noise_multiplier) for noise_multiplier in queries]

        def composition(noise_multiplier: float) -> Composition:
            return [(Sampled(rate, [Gaussian(noise_multiplier), *asked]), steps), *earlier]

        def upper(noise_multiplier: float) -> float:
            return self.epsilon(composition(noise_multiplier), target.delta).upper

        def quick_upper(noise_multiplier: float) -> float:
            return self.quick_epsilon(composition(noise_multiplier), target.delta)

        noise_multiplier = least_noise(upper, quick_upper, target.epsilon)
        if noise_multiplier is not None:
            return noise_multiplier
        raise ConfigurationError(
            f"epsilon={target.epsilon:g} cannot be reached: queries and earlier releases alone spend "
            f"{upper(math.inf):.4g}; give them more noise, take fewer steps, or raise epsilon"
        )


def listed(composition: Composition) -> tuple[tuple[Event, int], ...]:
    """Return a composition as pairs that can be read more than once."""
    return tuple(composition.items() if isinstance(composition, Mapping) else composition)


def parts(composition: Composition) -> tuple[Part, ...]:
    """Return the composition as sorted parts, equal ones merged, and unsampled Gaussians merged into one.

    What reveals nothing (no times, infinite noise) is left out.

    >>> parts([(Gaussian(2.0), 4), (Sampled(0.1, [Gaussian(1.0)]), 7)])
    (Part(rate=0.1, noise_multiplier=1.0, times=7), Part(rate=1.0, noise_multiplier=1.0, times=1))

    Raises:
        ConfigurationError: something that is no event, or `times` that are no whole number of at least 0.
    """
    merged: dict[tuple[float, float], int] = {}
    for event, times in listed(composition):
        if not isinstance(event, Event):
            raise ConfigurationError(f"{event!r} is no event; use Gaussian(...) or Sampled(...)")
        pair = event.dominating()
        merged[pair] = merged.get(pair, 0) + validation.count("times", times, least=0)
    kept = {pair: times for pair, times in merged.items() if times and pair[1] < math.inf}
    whole = joint(noise / math.sqrt(times) for (rate, noise), times in kept.items() if rate == 1)
    sampled = [Part(rate, noise, times) for (rate, noise), times in kept.items() if rate < 1]
    return tuple(sorted([*sampled, *([Part(1.0, whole, 1)] if whole < math.inf else [])]))
