"""One private step: add up the clipped gradients of one draw, then release their noisy mean. The only writer of `.grad`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dplit.clipping.policy import ClippingPolicy, Query
from dplit.errors import BudgetExhausted, ConfigurationError, PrivacyError
from dplit.grads.parameters import trainable_parameters
from dplit.grads.per_example import PerExample
from dplit.noise import GaussianNoise, NoiseSource, ReleaseNoise
from dplit.privacy import Ledger
from dplit.training.charge import Charge
from dplit.training.memory.allocator import keep_freed
from dplit.training.reduce import OneDevice, Reduction
from dplit.training.sensitivity import bounded


class PrivateStep:
    """Accumulates the physical batches of one Poisson draw and releases one noisy gradient.

    A draw is `begin`, `accumulate` for each physical batch, `release`.

    Sensitivity: one record more or less changes the accumulated sum by at most `policy.bound` in L2 norm, whatever
    the policy says its weights are, and a record whose gradient is not finite changes nothing.

    Args:
        module: its trainable parameters at the time of each draw get gradient and noise, all of them.
        policy: a declared clipping policy.
        noise_multiplier: σ, the noise's standard deviation over `policy.bound`.
        rate: q, each record's probability to be in a draw, unless the policy has rates by group.
        expected_batch_size: q·N, the public constant the noisy sum is divided by.
        ledger: charged once per release, before any noise is drawn.
        noise: where the noise comes from.
        reduction: where the sums of a draw come together; one device's if None.
        unit: the key that says whose a record is, where persons are drawn and charged; None for records.
        releases: how many more releases the budget allows, or None for no limit.

    Raises:
        ConfigurationError: a noise multiplier or batch size that is not above 0.
    """

    def __init__(
        self,
        module: nn.Module,
        policy: ClippingPolicy,
        *,
        noise_multiplier: float,
        rate: float,
        expected_batch_size: float,
        ledger: Ledger,
        noise: NoiseSource | None = None,
        reduction: Reduction | None = None,
        unit: str | None = None,
        releases: int | None = None,
    ) -> None:
        if not noise_multiplier > 0 or not expected_batch_size > 0:
            raise ConfigurationError(
                f"noise_multiplier={noise_multiplier} and expected_batch_size={expected_batch_size} must be above 0"
            )
        if any(p.device.type == "cpu" for p in module.parameters()):
            keep_freed()
        self.module = module
        self.policy = policy
        self.noise_multiplier = noise_multiplier
        self.rate = rate
        self.expected_batch_size = expected_batch_size
        self.ledger = ledger
        self.noise = noise or GaussianNoise()
        self.reduction = reduction or OneDevice()
        self.unit = unit
        self.releases = releases
        policy.prepare(tuple(trainable_parameters(module)), expected_batch_size)
        self._charge = Charge.of(policy, noise_multiplier, rate)
        self.event = self._charge.event()
        self.begin()

    def begin(self) -> None:
        """Start a draw. What an interrupted one left behind is dropped; if it was charged, it stays charged."""
        self.reduction.reset()
        self._statistic: Tensor | None = None
        self._wait_for_disk: Callable[[], None] | None = None

    @property
    def reads_groups(self) -> bool:
        """Whether `accumulate` needs group ids: the policy reads them, or groups are charged differently."""
        return self.policy.needs_groups or self._charge.differs_by_group

    @property
    def rates(self) -> list[float]:
        """The rate of each declared group, where they have rates of their own; else the one rate of all records."""
        return [rate for _, rate in self._charge.rates] or [self.rate]

    def accumulate(self, gradients: PerExample, group: Tensor | None = None) -> None:
        """Add one physical batch of the current draw.

        Args:
            gradients: of its n examples.
            group: `(n,)` ids into the declared groups; needed only where `reads_groups`.

        Raises:
            ConfigurationError: as many ids of declared groups as examples were not given.
            BudgetExhausted: the target would be passed.
            PrivacyError: the policy's caps or noise are not those the target was solved for, its rates not those that
                records are drawn at, or what it says of itself depends on the examples.
        """
        self._charge_draw()
        norms = norms_for(self.policy, gradients)
        ids = self._checked_ids(group, norms.shape[-1]).to(norms.device)
        self._ask(norms, ids)
        ratios = [ratio for _, ratio in self._charge.sensitivity_ratios]
        weights = bounded(self.policy.weights(norms, ids), norms, ids, self._bound, ratios)
        self._check_policy_stayed()
        named = weights if weights.dim() == 1 else dict(zip(gradients.parameters, weights, strict=True))
        self.reduction.add(gradients.weighted_sum(named))

    def release(self) -> None:
        """Charge, add noise, divide, write `.grad` of every trainable parameter, and answer the policy.

        A draw of no examples is released like any other.

        Raises:
            BudgetExhausted: the target would be passed; nothing was charged or released.
        """
        self._charge_draw()()
        noise = self.noise.release(self.ledger.steps)
        parameters = trainable_parameters(self.module)
        std = self._charge.noise_multiplier * self._bound
        means = self.reduction.noisy_mean(parameters, noise, std, self.expected_batch_size)
        for name, parameter in parameters.items():
            parameter.grad = means[name].to(parameter.dtype)
        self._answer(noise)
        self.begin()

    def _charge_draw(self) -> Callable[[], None]:
        """Charge this draw, once, and return what `release` calls to wait until the disk has the record."""
        if self._wait_for_disk is None:
            if self.releases == 0:
                raise BudgetExhausted("the privacy target allows no further step; train fewer steps or add noise")
            self._read_policy()
            if self.releases is not None:
                self.releases -= 1
            self._wait_for_disk = self.ledger.begin(self.event, unit=self.unit)
        return self._wait_for_disk

    def _read_policy(self) -> None:
        """Fix bound, caps and noise for this draw, and charge what they are now, not what they were at the start."""
        charge, self._bound = Charge.of(self.policy, self.noise_multiplier, self.rate), self.policy.bound
        if charge == self._charge:
            return
        if charge.rates != self._charge.rates:
            raise PrivacyError(
                f"{type(self.policy).__name__} changed its rates by group after the loader was made to draw by them; "
                "set them before the fit"
            )
        if self.releases is not None:
            raise PrivacyError(
                f"{type(self.policy).__name__} changed its caps or noise after the target was solved for them; "
                "give a noise multiplier in place of a Target, or leave them alone"
            )
        self._charge, self.event = charge, charge.event()

    def _checked_ids(self, group: Tensor | None, examples: int) -> Tensor:
        """Return the `(n,)` group ids of the examples, zeros where nothing depends on them."""
        if group is None and not self.reads_groups:
            return torch.zeros(examples, dtype=torch.int64)
        if group is None:
            raise ConfigurationError(
                f"{type(self.policy).__name__} treats groups differently, but no group ids were given; give one for each example"
            )
        if group.shape != (examples,):
            raise ConfigurationError(
                f"group ids of shape {tuple(group.shape)} for {examples} examples; give one id for each example"
            )
        count = len(self.policy.groups)
        if self.reads_groups and bool(((group < 0) | (group >= count)).any()):
            raise ConfigurationError(
                f"a group id lies outside the {count} declared groups ({', '.join(self.policy.groups)}); declare them all"
            )
        return group

    def _check_policy_stayed(self) -> None:
        """Refuse a policy that moved its bound, caps or noise while it looked at the norms of a draw."""
        now = Charge.of(self.policy, self.noise_multiplier, self.rate), self.policy.bound
        if now != (self._charge, self._bound):
            raise PrivacyError(
                f"{type(self.policy).__name__} changed its bound, caps or noise while it looked at exact norms, so the noise "
                "would depend on them; move thresholds in tell(), by noisy answers"
            )

    def _ask(self, norms: Tensor, ids: Tensor) -> None:
        """Add the policy's statistic of one physical batch to that of the draw.

        Raises:
            PrivacyError: its sensitivity is another than that of the statistic of no examples.
        """
        query = self.policy.ask(norms, ids)
        if query is not None:
            self._check_sensitivity(query, norms)
            value = query.value.detach().to("cpu", torch.float64)
            self._statistic = value if self._statistic is None else self._statistic + value
            self._sensitivity = query.sensitivity

    def _check_sensitivity(self, query: Query, norms: Tensor) -> None:
        """The noise of an answer is a multiple of its sensitivity, which must not depend on the examples."""
        none = self.policy.ask(norms[..., :0], torch.zeros(0, dtype=torch.int64, device=norms.device))
        if none is None or query.sensitivity != none.sensitivity or not 0 < query.sensitivity < math.inf:
            stated = "nothing" if none is None else f"{none.sensitivity:g}"
            raise PrivacyError(
                f"{type(self.policy).__name__} states a sensitivity of {query.sensitivity:g} for a statistic of examples and "
                f"{stated} for that of none; a sensitivity is one constant, above 0, whatever the examples"
            )

    def _answer(self, noise: ReleaseNoise) -> None:
        """Give the policy the noisy statistic of the draw; of an empty draw that of no examples."""
        for noise_multiplier in self._charge.queries:
            if self._statistic is None:
                rows = (len(trainable_parameters(self.module)),) if self.policy.per_parameter else ()
                self._ask(torch.zeros(*rows, 0), torch.zeros(0, dtype=torch.int64))
            assert self._statistic is not None, "a policy with a query asks it of every draw"
            total = self.reduction.total(self._statistic)
            self.policy.tell(total + noise.like(total, noise_multiplier * self._sensitivity))


def norms_for(policy: ClippingPolicy, gradients: PerExample) -> Tensor:
    """Return the norms that a policy weighs by, `(n,)` or `(p, n)`; one that is NaN becomes infinite."""
    norms = gradients.norms_by_parameter() if policy.per_parameter else gradients.norms()
    return norms.nan_to_num(nan=math.inf, posinf=math.inf)
