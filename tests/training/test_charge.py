"""What one draw is charged: gradient and queries jointly, each group by its own sensitivity and rate."""

from __future__ import annotations

import math

import pytest

from dplit.clipping import Flat, GroupQuantile, GroupRates, GroupThresholds, Quantile
from dplit.errors import PrivacyError
from dplit.training.charge import Charge

GROUPS = ("north", "south")


def test_a_policy_without_groups_or_queries_is_one_gaussian() -> None:
    event = Charge.of(Flat(), 1.5, 0.01).event()
    assert (event.rate, event.noise_multiplier) == (0.01, 1.5)


@pytest.mark.parametrize("query", [1.0, 10.0])
def test_queries_are_charged_jointly_with_the_gradient(query: float) -> None:
    event = Charge.of(Quantile(noise_multiplier=query), 0.8, 0.01).event()
    assert event.noise_multiplier == pytest.approx(1 / math.sqrt(1 / 0.8**2 + 1 / query**2))


def test_a_group_is_charged_by_its_share_of_the_bound() -> None:
    policy = GroupThresholds({"north": 1.0, "south": 0.25})
    policy.declare(GROUPS)
    event = Charge.of(policy, 0.8, 0.01).event()
    assert event.for_group("south").noise_multiplier == pytest.approx(0.8 / 0.25)
    assert event.for_group("north").noise_multiplier == event.noise_multiplier == 0.8


def test_the_overall_event_is_at_the_largest_rate() -> None:
    policy = GroupRates({"north": 1.0, "south": 4.0})
    policy.declare(GROUPS)
    event = Charge.of(policy, 1.0, 0.01).event()
    assert event.rate == event.for_group("south").rate > event.for_group("north").rate


def test_ratios_are_in_the_declared_order_whatever_the_policy_says_first() -> None:
    class Reversed(GroupThresholds):
        @property
        def caps(self) -> dict[str, float]:
            return dict(reversed(super().caps.items()))

    policy = Reversed({"north": 1.0, "south": 0.25})
    policy.declare(GROUPS)
    assert Charge.of(policy, 1.0, 0.01).sensitivity_ratios == (("north", 1.0), ("south", 0.25))


def test_thresholds_that_adapt_state_nothing_by_group() -> None:
    policy = GroupQuantile.example(GROUPS)
    assert not Charge.of(policy, 1.0, 0.01).event().groups


@pytest.mark.parametrize(
    "caps", [{"north": 1.0}, {"north": 1.0, "west": 1.0}, {"north": 1.0, "south": 1.0, "west": 1.0}]
)
def test_ratios_of_other_groups_are_refused(caps: dict[str, float]) -> None:
    class Other(Flat):
        @property
        def caps(self) -> dict[str, float]:
            return caps

    policy = Other()
    policy.declare(GROUPS)
    with pytest.raises(PrivacyError, match="need each declared group once"):
        Charge.of(policy, 1.0, 0.01)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("what", ["caps", "rates"])
def test_caps_and_rates_out_of_range_are_refused(what: str, value: float) -> None:
    """A cap above 1 would let a record move the sum by more than the overall charge says."""

    class Odd(Flat):
        @property
        def caps(self) -> dict[str, float]:
            return {"north": 1.0, "south": value if what == "caps" else 1.0}

        def rates(self, rate: float) -> dict[str, float]:
            return {"north": 0.1, "south": value if what == "rates" else 0.1}

    policy = Odd()
    policy.declare(GROUPS)
    with pytest.raises(PrivacyError, match=f"states {value:g} for the group south"):
        Charge.of(policy, 1.0, 0.01)


def test_groups_are_charged_differently_by_caps_or_rates() -> None:
    alike, capped, drawn = (
        Flat(),
        GroupThresholds({"north": 1.0, "south": 0.25}),
        GroupRates({"north": 1.0, "south": 4.0}),
    )
    for policy, differs in ((alike, False), (capped, True), (drawn, True)):
        policy.declare(GROUPS)
        assert Charge.of(policy, 1.0, 0.01).differs_by_group is differs
