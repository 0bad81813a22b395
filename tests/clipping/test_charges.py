"""What each policy costs, against another accountant: never below it, at most 1 % above (promise 15)."""

from __future__ import annotations

import pytest

from dplit.clipping import ClippingPolicy, Flat, GlobalAdaptive, GroupRates, GroupThresholds, Quantile
from dplit.privacy import Gaussian, Ledger, Target, epsilon
from dplit.training.charge import Charge
from tests.clipping.laws import GROUPS, every_instance
from tests.privacy.oracle import pld_epsilon

DELTA = 1e-6


def law_agrees(composition: list) -> None:
    ours, other = epsilon(composition, DELTA).upper, pld_epsilon(composition, DELTA)
    assert other * (1 - 1e-5) <= ours <= other * 1.01


@every_instance
def test_every_policy_against_another_accountant(make) -> None:
    event = Charge.of(make(), 0.8, 1 / 214).event()
    for one in {event, *event.groups.values()}:
        law_agrees([(one, 2000)])


MIXES: dict[str, list[tuple[ClippingPolicy, float, float, int]]] = {
    "three policies in turn": [
        (Flat(), 1.0, 0.01, 500),
        (Quantile(), 0.9, 0.02, 300),
        (GlobalAdaptive(), 2.0, 0.01, 400),
    ],
    "rates, then thresholds": [
        (GroupRates.example(GROUPS), 1.2, 0.005, 500),
        (GroupThresholds.example(GROUPS), 1.0, 0.01, 500),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_mixtures_against_another_accountant(mix: str) -> None:
    steps = [(Charge.of(policy, noise, rate).event(), times) for policy, noise, rate, times in MIXES[mix]]
    law_agrees([*steps, (Gaussian(50.0), 20)])
    for group in GROUPS:
        law_agrees([(event.for_group(group), times) for event, times in steps])


def test_mutant_separate_charges_are_caught() -> None:
    """A query on the gradient's draw, charged as one more subsampled mechanism (way 3)."""
    joint = Charge.of(Quantile(noise_multiplier=1.0), 0.8, 1 / 214).event()
    from dplit.privacy import Sampled

    separate = [(Sampled(1 / 214, [Gaussian(0.8)]), 2000), (Sampled(1 / 214, [Gaussian(1.0)]), 2000)]
    with pytest.raises(AssertionError):
        assert epsilon(separate, DELTA).upper >= pld_epsilon([(joint, 2000)], DELTA) * (1 - 1e-5)


@every_instance
def test_a_query_costs(make) -> None:
    policy = make()
    if policy.queries:
        event, plain = Charge.of(policy, 0.8, 0.01).event(), Charge.of(Flat(), 0.8, 0.01).event()
        assert epsilon([(event, 500)], DELTA).lower > epsilon([(plain, 500)], DELTA).upper


RATES = {1: 3.104, 2: 6.641, 4: 14.657, 9: 39.367}


@pytest.mark.parametrize("factor", RATES)
def test_the_published_price_of_oversampling(factor: int) -> None:
    policy = GroupRates({"small": factor, "large": 1.0})
    policy.declare(["small", "large"])
    ledger = Ledger()
    ledger.record(Charge.of(policy, 1.0, 1 / 92).event(), times=1840)
    assert RATES[factor] * 0.9999 <= ledger.epsilon(DELTA).upper <= RATES[factor] * 1.01
    assert RATES[1] * 0.9999 <= ledger.epsilon(DELTA, group="large").upper <= RATES[1] * 1.01


SHARES = {0.75: 1.8867, 0.5: 1.0838, 0.25: 0.4814}


@pytest.mark.parametrize("share", SHARES)
def test_the_published_gain_of_a_smaller_threshold(share: float) -> None:
    policy = GroupThresholds({"small": share, "large": 1.0})
    policy.declare(["small", "large"])
    ledger = Ledger()
    ledger.record(Charge.of(policy, 1.0, 1 / 92).event(), times=1840)
    assert 3.1037 * 0.9999 <= ledger.epsilon(DELTA).upper <= 3.1037 * 1.01
    assert SHARES[share] * 0.9999 <= ledger.epsilon(DELTA, group="small").upper <= SHARES[share] * 1.01


def law_equal_epsilon(policy: ClippingPolicy, target: Target, rate: float, steps: int) -> None:
    """The noise solved for a target makes the whole step, queries and rates included, just meet it."""
    from dplit.training.setup import solve_noise

    spent = epsilon(
        [(Charge.of(policy, solve_noise(target, policy, rate, steps), rate).event(), steps)], target.delta
    ).upper
    assert 0.985 * target.epsilon <= spent <= target.epsilon


@every_instance
@pytest.mark.parametrize("wanted", [1.0, 8.0])
def test_equal_epsilon_by_construction(make, wanted: float) -> None:
    law_equal_epsilon(make(), Target(wanted, DELTA), 0.01, 1000)


def test_mutant_noise_solved_for_the_loaders_rate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import dplit.training.setup

    honest = dplit.training.setup.calibrate
    monkeypatch.setattr(
        dplit.training.setup, "calibrate", lambda target, *, rate, **rest: honest(target, rate=0.01, **rest)
    )
    with pytest.raises(AssertionError):
        law_equal_epsilon(GroupRates.example(GROUPS), Target(3.0, DELTA), 0.01, 1000)


def test_mutant_noise_solved_without_the_query_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import dplit.training.setup

    honest = dplit.training.setup.calibrate
    monkeypatch.setattr(dplit.training.setup, "calibrate", lambda target, *, queries, **rest: honest(target, **rest))
    with pytest.raises(AssertionError):
        law_equal_epsilon(Quantile(noise_multiplier=1.0), Target(3.0, DELTA), 0.01, 1000)


def test_the_example_of_the_accounting_rule() -> None:
    """σ_eff = 1 with a count at σ_b = 10 needs σ = 1.00504."""
    assert Charge.of(Quantile(noise_multiplier=10.0), 1.00504, 0.01).event().noise_multiplier == pytest.approx(
        1.0, abs=1e-5
    )


JOINT = {10.0: 5.4648, 8.0: 5.4893, 1.0: 11.1586}


@pytest.mark.parametrize("query", JOINT)
def test_the_published_joint_charge(query: float) -> None:
    event = Charge.of(GlobalAdaptive(noise_multiplier=query), 0.8, 1 / 214).event()
    assert JOINT[query] * 0.9999 <= epsilon([(event, 12840)], DELTA).upper <= JOINT[query] * 1.01
