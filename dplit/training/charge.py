"""What one private step is charged: the gradient and the policy's statistic, released jointly from one draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from dplit.clipping.policy import ClippingPolicy
from dplit.errors import PrivacyError
from dplit.privacy import Gaussian, Sampled


class Charge(NamedTuple):
    """The numbers that one draw is charged and noised by; read once, before anything of the draw is computed."""

    noise_multiplier: float
    """σ of the gradient: standard deviation of the noise / the policy's bound."""
    rate: float
    """q, the probability with which each record enters the draw, where groups have no rates of their own."""
    queries: tuple[float, ...]
    """Noise multipliers of what the policy asks of the draw."""
    sensitivity_ratios: tuple[tuple[str, float], ...]
    """(group, ρ) in the declared order: a record of the group moves the gradient sum by at most ρ·bound."""
    rates: tuple[tuple[str, float], ...] = ()
    """(group, q) in the declared order, where groups have rates of their own."""

    @classmethod
    def of(cls, policy: ClippingPolicy, noise_multiplier: float, rate: float) -> Self:
        """Read what the policy says of itself now.

        Raises:
            PrivacyError: its ratios or rates are not those of the declared groups, each once, or are out of range.
        """
        ratios, rates = (_in_declared_order(values, policy) for values in (policy.caps, policy.rates(rate)))
        for name, value in (*ratios, *rates):
            if not 0 < value <= 1:
                raise PrivacyError(
                    f"{type(policy).__name__} states {value:g} for the group {name}; caps and rates are above 0 and at most 1"
                )
        return cls(noise_multiplier, rate, tuple(policy.queries), ratios, rates)

    @property
    def differs_by_group(self) -> bool:
        """Whether records of different groups are charged differently, so that it must be known which group each is of."""
        return bool(self.rates) or any(ratio != 1 for _, ratio in self.sensitivity_ratios)

    def event(self) -> Sampled:
        """Return the privacy event of one step.

        A record of group g moves the gradient sum by at most ρ_g·bound, so the event has a view of the group with the
        noise multiplier σ/ρ_g where the policy states ρ_g; the record is drawn at its group's rate, where groups have
        rates of their own. The overall event is at the largest rate.
        """
        queries = [Gaussian(noise) for noise in self.queries]
        group_rates = dict(self.rates)
        views = {
            name: Sampled(group_rates.get(name, self.rate), [Gaussian(self.noise_multiplier / ratio), *queries])
            for name, ratio in self.sensitivity_ratios
        }
        largest = max(group_rates.values(), default=self.rate)
        return Sampled(largest, [Gaussian(self.noise_multiplier), *queries], groups=views)


def _in_declared_order(values: Mapping[str, float] | None, policy: ClippingPolicy) -> tuple[tuple[str, float], ...]:
    """Return what a policy says of its groups in their declared order, which group ids count by."""
    if not values:
        return ()
    if set(values) != set(policy.groups):
        raise PrivacyError(
            f"{type(policy).__name__} speaks of the groups {', '.join(values)}, but {', '.join(policy.groups)} are declared; "
            "caps and rates need each declared group once"
        )
    return tuple((name, float(values[name])) for name in policy.groups)
