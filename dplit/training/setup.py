"""What a fit is going to be: its noise, its private step, and what the privacy statement says of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from dplit.clipping import ClippingPolicy
from dplit.errors import ConfigurationError
from dplit.noise import GaussianNoise, NoiseSource
from dplit.privacy import Ledger, Target, calibrate, steps_within
from dplit.privacy.accountants import Accountant
from dplit.privacy.statement import Facts
from dplit.sampling.poisson import PoissonBatches, Strata
from dplit.sampling.strata import groups_of_units, strata
from dplit.sampling.units import People
from dplit.training.charge import Charge
from dplit.training.reduce import Reduction
from dplit.training.step import PrivateStep


@dataclass(frozen=True)
class FitPlan:
    """The public constants of a fit, known before its first step.

    Args:
        policy: a declared clipping policy.
        noise: what was asked for, a target or the noise multiplier itself.
        noise_multiplier: σ of the gradient, solved for the target.
        rate: q, each record's probability to be in a draw, unless the policy has rates by group.
        size: N, the records (or persons) to draw from.
        delta: δ of the privacy statement.
        unit: the key that says whose a record is, where persons are drawn; None for records.
        noise_source: where the noise of the fit's releases comes from.
    """

    policy: ClippingPolicy
    noise: Target | float
    noise_multiplier: float
    rate: float
    size: int
    delta: float
    unit: str | None = None
    noise_source: NoiseSource = field(default_factory=GaussianNoise)

    @classmethod
    def of(
        cls,
        policy: ClippingPolicy,
        noise: Target | float,
        noise_multiplier: float | None,
        sampler: PoissonBatches,
        planned_steps: float,
        accountant: Accountant | None = None,
        **rest: Any,
    ) -> FitPlan:
        """Return the plan of a fit that draws by `sampler`; a noise multiplier solved before, as a checkpoint keeps it, stays.

        Args:
            policy: as above.
            noise: as above.
            noise_multiplier: solved before, or None.
            sampler: of the train loader.
            planned_steps: of the fit.
            accountant: of the fit's ledger, which the noise is solved by; None for the default.
            rest: the other constants.

        Raises:
            ConfigurationError: a target without a planned number of steps, or one that cannot be reached.
        """
        if noise_multiplier is None or not isinstance(noise, Target):
            noise_multiplier = solve_noise(noise, policy, sampler.rate, planned_steps, accountant)
        return cls(policy, noise, noise_multiplier, sampler.rate, sampler.size, **rest)

    @property
    def expected_batch_size(self) -> float:
        """q·N, the constant that noisy sums are divided by."""
        return self.rate * self.size

    def private_step(self, module: nn.Module, ledger: Ledger, reduction: Reduction | None = None) -> PrivateStep:
        """Return the step of the fit, which ends where a target would be passed."""
        event = Charge.of(self.policy, self.noise_multiplier, self.rate).event()
        return PrivateStep(
            module,
            self.policy,
            noise_multiplier=self.noise_multiplier,
            rate=self.rate,
            expected_batch_size=self.expected_batch_size,
            ledger=ledger,
            noise=self.noise_source,
            reduction=reduction,
            unit=self.unit,
            releases=steps_within(self.noise, event, ledger) if isinstance(self.noise, Target) else None,
        )

    def facts(self, journal: Path | None) -> Facts:
        """Return what the privacy statement says of the fit beyond its ledger."""
        queries = {f"query {i + 1} of the policy": multiplier for i, multiplier in enumerate(self.policy.queries)}
        rates = self.policy.rates(self.rate)
        by_group = "" if rates is None else "; rates by group: " + ", ".join(f"{g} {q:g}" for g, q in rates.items())
        return Facts(
            delta=self.delta,
            groups=self.policy.groups,
            sampling=Facts.sampling + by_group,
            policy=type(self.policy).__name__,
            parameters=self.policy.settings(),
            noise_multipliers={"gradient": self.noise_multiplier, **queries},
            noise_source=self.noise_source.description,
            rate=self.rate if rates is None else None,
            expected_batch_size=self.expected_batch_size,
            dataset_size=self.size,
            journal=None if journal is None else str(journal),
            target=self.noise if isinstance(self.noise, Target) else None,
            person=self.unit,
        )


def solve_noise(
    noise: Target | float,
    policy: ClippingPolicy,
    rate: float,
    planned_steps: float,
    accountant: Accountant | None = None,
) -> float:
    """Return the gradient's noise multiplier, the policy's queries and its groups' rates included.

    Args:
        noise: a target, or the noise multiplier itself.
        policy: declared.
        rate: q, batch size / records.
        planned_steps: steps of the fit.
        accountant: what a target is solved by; None for the default.

    Raises:
        ConfigurationError: a target without a planned number of steps, or one that cannot be reached.
    """
    if not isinstance(noise, Target):
        return float(noise)
    if not math.isfinite(planned_steps) or planned_steps < 1:
        raise ConfigurationError("a Target needs a planned number of steps; set Trainer(max_epochs=...) or max_steps")
    largest = Charge.of(policy, 1.0, rate).event().rate
    return calibrate(noise, rate=largest, steps=int(planned_steps), queries=list(policy.queries), accountant=accountant)


def strata_of_policy(
    policy: ClippingPolicy, rate: float, loader: DataLoader[Any], read: Callable[[Any], Tensor]
) -> Strata | None:
    """Return where each rate holds, if the policy has rates by group; `loader` and `read` are those of `strata`.

    Raises:
        ConfigurationError: a policy that reads groups, and records of one person in different ones.
    """
    charge = Charge.of(policy, 1.0, rate)
    if charge.rates:
        return strata(loader, read, [group_rate for _, group_rate in charge.rates])
    if (policy.needs_groups or charge.differs_by_group) and isinstance(loader.dataset, People):
        groups_of_units(loader, read)
    return None
