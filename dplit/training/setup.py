"""What a fit is going to be: its noise, its private step, and the facts of its privacy statement."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from dplit.clipping import ClippingPolicy
from dplit.errors import ConfigurationError
from dplit.noise import GaussianNoise
from dplit.privacy import Ledger, Target, calibrate, steps_within
from dplit.privacy.statement import Facts
from dplit.sampling.poisson import PoissonBatches, Strata
from dplit.sampling.strata import groups_of_units, strata
from dplit.sampling.units import People
from dplit.training.step import PrivateStep, Terms, charge


def solve(noise: Target | float, policy: ClippingPolicy, rate: float, planned: float) -> float:
    """Return the gradient's noise multiplier, the policy's queries and its groups' rates included.

    Args:
        noise: a target, or the noise multiplier itself.
        policy: declared.
        rate: q, batch size / records.
        planned: steps of the fit.

    Raises:
        ConfigurationError: a target without a planned number of steps, or one that cannot be reached.
    """
    if not isinstance(noise, Target):
        return float(noise)
    if not math.isfinite(planned) or planned < 1:
        raise ConfigurationError("a Target needs a planned number of steps; set Trainer(max_epochs=...) or max_steps")
    largest = charge(policy, 1.0, rate).rate
    return calibrate(noise, rate=largest, steps=int(planned), queries=list(policy.queries))


def private_step(
    module: nn.Module,
    policy: ClippingPolicy,
    noise: Target | float,
    noise_multiplier: float,
    sampler: PoissonBatches,
    ledger: Ledger,
    noise_seed: int | None,
) -> PrivateStep:
    """Return the step of a fit, which ends where a target would be passed."""
    event = charge(policy, noise_multiplier, sampler.rate)
    return PrivateStep(
        module,
        policy,
        noise_multiplier=noise_multiplier,
        rate=sampler.rate,
        expected_batch_size=sampler.rate * sampler.size,
        ledger=ledger,
        noise=GaussianNoise(noise_seed),
        releases=steps_within(noise, event, ledger) if isinstance(noise, Target) else None,
    )


def stratified(
    policy: ClippingPolicy, rate: float, loader: DataLoader[Any], read: Callable[[Any], Tensor]
) -> Strata | None:
    """Return where each rate holds, if the policy has rates by group; `loader` and `read` are those of `strata`.

    Raises:
        ConfigurationError: a policy that reads groups, and records of one person in different ones.
    """
    own = Terms.of(policy, 1.0, rate).rates
    if own:
        return strata(loader, read, [each for _, each in own])
    if policy.needs_groups and isinstance(loader.dataset, People):
        groups_of_units(loader, read)
    return None


def describe(
    policy: ClippingPolicy,
    noise: Target | float,
    noise_multiplier: float,
    sampler: PoissonBatches,
    ledger: Ledger,
    delta: float,
    unit: str | None = None,
) -> Facts:
    """Return what the statement says of a fit beyond its ledger; `unit` names the key that says whose a record is."""
    queries = {f"query {i + 1} of the policy": multiplier for i, multiplier in enumerate(policy.queries)}
    rates = policy.rates(sampler.rate)
    by_group = "" if rates is None else "; rates by group: " + ", ".join(f"{g} {q:g}" for g, q in rates.items())
    return Facts(
        delta=delta,
        groups=policy.groups,
        sampling=Facts.sampling + by_group,
        policy=type(policy).__name__,
        parameters=policy.settings(),
        noise_multipliers={"gradient": noise_multiplier, **queries},
        rate=sampler.rate if rates is None else None,
        expected_batch_size=sampler.rate * sampler.size,
        dataset_size=sampler.size,
        journal=None if ledger.journal is None else str(ledger.journal.path),
        target=noise if isinstance(noise, Target) else None,
        person=unit,
    )
