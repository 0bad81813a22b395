"""One private step: add up clipped gradients of one draw, then release their noisy sum. The only writer of `.grad`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dplit.clipping.policy import ClippingPolicy, finite
from dplit.errors import BudgetExhausted, ConfigurationError
from dplit.grads.per_example import PerExample
from dplit.noise import Noise, gaussian
from dplit.privacy import Gaussian, Ledger, Sampled


def charge(policy: ClippingPolicy, noise_multiplier: float, rate: float) -> Sampled:
    """Return the event one step is: the gradient and the policy's query, released jointly from one draw.

    A record of group g moves the gradient by at most ρ_g·bound, hence a view with σ/ρ_g where the policy states ρ_g.
    """
    queries = [Gaussian(noise) for noise in policy.queries]
    caps = policy.caps or {}
    views = {name: Sampled(rate, [Gaussian(noise_multiplier / cap), *queries]) for name, cap in caps.items()}
    return Sampled(rate, [Gaussian(noise_multiplier), *queries], groups=views)


class PrivateStep:
    """Accumulates the physical batches of one Poisson draw and releases one noisy gradient.

    A draw is `begin`, `accumulate` for each physical batch, `release`.

    Sensitivity: one record more or less changes the accumulated sum by at most `policy.bound` in L2 norm, whatever
    the policy says its weights are, and a record whose gradient is not finite changes nothing.

    Args:
        module: its trainable parameters at the time of each draw get gradient and noise, all of them.
        policy: a declared clipping policy.
        noise_multiplier: σ, the noise's standard deviation over `policy.bound`.
        rate: q, each record's probability to be in a draw.
        expected_batch_size: q·N, the public constant the noisy sum is divided by.
        ledger: charged once per release, before any noise is drawn.
        noise: where the noise comes from.
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
        noise: Noise | None = None,
        releases: int | None = None,
    ) -> None:
        if not noise_multiplier > 0 or not expected_batch_size > 0:
            raise ConfigurationError(
                f"noise_multiplier={noise_multiplier} and expected_batch_size={expected_batch_size} must be above 0"
            )
        self.module = module
        self.policy = policy
        self.noise_multiplier = noise_multiplier
        self.expected_batch_size = expected_batch_size
        self.ledger = ledger
        self.noise = noise or Noise()
        self.releases = releases
        self.event = charge(policy, noise_multiplier, rate)
        self.begin()

    def begin(self) -> None:
        """Start a draw. What an interrupted one left behind is dropped; if it was charged, it stays charged."""
        self._sums: dict[str, Tensor] = {}
        self._asked: Tensor | None = None
        self._charge: Callable[[], None] | None = None

    def accumulate(self, gradients: PerExample, group: Tensor | None = None) -> None:
        """Add one physical batch of the current draw.

        Args:
            gradients: of its n examples.
            group: `(n,)` ids into the declared groups; needed only by policies that read them.
        """
        self._charged()
        norms = gradients.norms().nan_to_num(nan=math.inf, posinf=math.inf)
        ids = (
            torch.zeros(len(norms), dtype=torch.int64, device=norms.device) if group is None else group.to(norms.device)
        )
        self._ask(norms, ids)
        weights = self._bounded(self.policy.weights(norms, ids), norms, ids)
        for name, part in gradients.weighted_sum(weights).items():
            self._sums[name] = part if name not in self._sums else self._sums[name].add_(part)

    def release(self) -> None:
        """Charge, add noise, divide, write `.grad` of every trainable parameter, and answer the policy.

        A draw of no examples is released like any other.

        Raises:
            BudgetExhausted: the target would be passed; nothing was charged or released.
        """
        self._charged()()
        generators = _Generators(self.noise, self.ledger.steps)
        std = self.noise_multiplier * self.policy.bound
        for name, parameter in trainable(self.module).items():
            parameter.grad = self._noisy(name, parameter, std, generators)
        self._answer(generators)
        self.begin()

    def _charged(self) -> Callable[[], None]:
        """Charge this draw, once, and return what `release` calls to wait until the disk has the record."""
        if self._charge is None:
            if self.releases == 0:
                raise BudgetExhausted("the privacy target allows no further step; train fewer steps or add noise")
            if self.releases is not None:
                self.releases -= 1
            self._charge = self.ledger.begin(self.event)
        return self._charge

    def _noisy(self, name: str, parameter: Tensor, std: float, generators: _Generators) -> Tensor:
        total = gaussian(parameter, std, generators[parameter.device])
        if name in self._sums:
            total.add_(self._sums.pop(name))
        return total.div_(self.expected_batch_size).to(parameter.dtype)

    def _ask(self, norms: Tensor, ids: Tensor) -> None:
        query = self.policy.ask(norms, ids)
        if query is not None:
            value = query.value.detach().to("cpu", torch.float64)
            self._asked = value if self._asked is None else self._asked + value
            self._sensitivity = query.sensitivity

    def _answer(self, generators: _Generators) -> None:
        for noise_multiplier in self.policy.queries:
            if self._asked is None:
                empty = torch.zeros(0)
                self._ask(empty, empty.to(torch.int64))
            assert self._asked is not None, "a policy with a query asks it of every draw"
            std = noise_multiplier * self._sensitivity
            self.policy.tell(self._asked + gaussian(self._asked, std, generators[self._asked.device]))

    def _bounded(self, weights: Tensor, norms: Tensor, ids: Tensor) -> Tensor:
        """Return the policy's weights with wᵢ‖gᵢ‖ held within the declared sensitivity of the example's group."""
        limit = self.policy.bound / norms
        caps = self.policy.caps or {}
        if any(cap < 1 for cap in caps.values()):
            limit = (
                limit * torch.tensor([caps[name] for name in self.policy.groups], device=norms.device).to(norms)[ids]
            )
        return finite(torch.minimum(weights.nan_to_num(0.0).clamp_min(0.0), limit), norms)


class _Generators:
    """One generator per device for one release."""

    def __init__(self, noise: Noise, release: int) -> None:
        self._noise, self._release = noise, release
        self._made: dict[torch.device, torch.Generator] = {}

    def __getitem__(self, device: torch.device) -> torch.Generator:
        if device not in self._made:
            self._made[device] = self._noise.generator(self._release, device)
        return self._made[device]


def trainable(module: nn.Module) -> Mapping[str, nn.Parameter]:
    """Return the module's trainable parameters by name, shared ones once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
