"""A plan holds the constants of a fit; its noise keeps the target, its facts say what was drawn and clipped."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import DataLoader

from dplit.clipping import Flat, GroupRates, Quantile
from dplit.errors import ConfigurationError
from dplit.noise import GaussianNoise
from dplit.privacy import Ledger, Target, epsilon
from dplit.sampling.loader import poisson_loader
from dplit.sampling.poisson import PoissonBatches
from dplit.training.charge import Charge
from dplit.training.setup import FitPlan, solve_noise, strata_of_policy
from tests.lightning import Data, Linear

SAMPLER = PoissonBatches(1000, 0.05, 20)
TARGET = Target(2.0, 1e-5)
GROUPS = ["north", "east", "south"]


def plan(policy: Flat | Quantile | GroupRates | None = None, noise: Target | float = 1.5, **rest: object) -> FitPlan:
    policy = policy or Flat()
    if not policy.groups:
        policy.declare(GROUPS)
    return FitPlan.of(
        policy, noise, rest.pop("solved", None), SAMPLER, 100, rest.pop("accountant", None), **{"delta": 1e-5, **rest}
    )


@pytest.mark.parametrize("policy", [Flat(), Quantile(noise_multiplier=5.0)])
def test_the_solved_noise_keeps_the_target_with_the_queries_in_it(policy: Flat | Quantile) -> None:
    sigma = solve_noise(TARGET, policy, 0.05, 100)
    spent = [epsilon([(Charge.of(policy, noise, 0.05).event(), 100)], 1e-5).upper for noise in (sigma, 0.99 * sigma)]
    assert spent[0] <= 2.0 < spent[1]


def test_groups_with_larger_rates_are_solved_for() -> None:
    policy = GroupRates({"north": 1.0, "east": 1.0, "south": 4.0})
    policy.declare(GROUPS)
    assert solve_noise(TARGET, policy, 0.05, 100) > 1.2 * solve_noise(TARGET, Flat(), 0.05, 100)


@pytest.mark.parametrize("planned", [math.inf, 0, math.nan])
def test_a_target_needs_a_number_of_steps(planned: float) -> None:
    with pytest.raises(ConfigurationError, match="max_epochs"):
        solve_noise(TARGET, Flat(), 0.05, planned)
    assert solve_noise(1.5, Flat(), 0.05, planned) == 1.5


def test_noise_that_was_solved_before_stays() -> None:
    """A resumed fit goes on with its own noise, whatever its number of steps would ask for now."""
    assert plan(noise=TARGET, solved=7.5).noise_multiplier == 7.5
    assert plan(noise=1.5, solved=7.5).noise_multiplier == 1.5


def test_the_step_is_the_plans() -> None:
    step = plan(noise=TARGET).private_step(Linear(), Ledger())
    assert step.expected_batch_size == 50
    assert step.rate == 0.05
    assert 100 <= step.releases <= 102
    assert plan().private_step(Linear(), Ledger()).releases is None


def test_the_statement_says_what_is_drawn_and_clipped() -> None:
    policy = GroupRates({"north": 1.0, "east": 1.0, "south": 4.0})
    facts = plan(policy, unit="user").facts(None)
    assert facts.rate is None
    assert "rates by group: " in facts.sampling
    assert (facts.policy, facts.person, facts.dataset_size) == ("GroupRates", "user", 1000)
    assert plan(Quantile(noise_multiplier=5.0)).facts(None).noise_multipliers == {
        "gradient": 1.5,
        "query 1 of the policy": 5.0,
    }


def test_strata_are_the_groups_where_rates_are_theirs() -> None:
    loader = poisson_loader(DataLoader(Data(), batch_size=16), 4)
    read = lambda batch: batch["group"]  # noqa: E731
    policy = GroupRates({"north": 1.0, "east": 2.0, "south": 0.5})
    policy.declare(GROUPS)
    strata = strata_of_policy(policy, 0.25, loader, read)
    assert strata is not None
    rates = policy.rates(0.25)
    for k, (members, rate) in enumerate(strata):
        assert torch.equal(torch.as_tensor(members), torch.arange(64)[torch.arange(64) % 3 == k])
        assert rate == rates[GROUPS[k]]
    assert strata_of_policy(Flat(), 0.25, loader, read) is None


def test_noise_is_solved_by_the_accountant_of_the_ledger() -> None:
    """Rényi bounds are wider, so the same target needs more noise, and all planned steps fit in it."""
    rdp = Ledger(accountant="rdp")
    wide, narrow = plan(noise=TARGET, accountant=rdp.accountant), plan(noise=TARGET)
    assert wide.noise_multiplier > 1.02 * narrow.noise_multiplier
    assert wide.private_step(Linear(), rdp).releases >= 100
    assert narrow.private_step(Linear(), rdp).releases < 100


def test_the_noise_source_is_the_plans() -> None:
    source = GaussianNoise(7)
    chosen = plan(noise_source=source)
    assert chosen.private_step(Linear(), Ledger()).noise is source
    assert chosen.facts(None).noise_source == source.description
