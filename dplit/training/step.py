"""One private step: add up clipped gradients of one draw, then release their noisy sum. The only writer of `.grad`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from dplit.clipping.policy import ClippingPolicy
from dplit.errors import BudgetExhausted, ConfigurationError, PrivacyError
from dplit.grads.per_example import PerExample
from dplit.noise import GaussianNoise, NoiseSource, ReleaseNoise
from dplit.privacy import Gaussian, Ledger, Sampled
from dplit.training.memory.allocator import keep_freed

UNDERFLOW = 1e-18
"""A float32 norm below this may stand for one whose square underflowed; it is bounded as if it were this large."""


class Terms(NamedTuple):
    """What one draw is charged and noised by, read once, before anything of it is computed."""

    noise_multiplier: float
    rate: float
    queries: tuple[float, ...]
    caps: tuple[tuple[str, float], ...]
    rates: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, policy: ClippingPolicy, noise_multiplier: float, rate: float) -> Self:
        """Read them off a policy."""
        caps, rates = (_in_order(found, policy) for found in (policy.caps, policy.rates(rate)))
        return cls(noise_multiplier, rate, tuple(policy.queries), caps, rates)

    def event(self) -> Sampled:
        """Return the event: the gradient and the policy's query, released jointly from one draw.

        A record of group g moves the gradient by at most ρ_g·bound, hence a view with σ/ρ_g where the policy states ρ_g;
        and it is drawn at its group's rate, where groups have rates of their own. The headline is at the largest rate.
        """
        asked = [Gaussian(noise) for noise in self.queries]
        own = dict(self.rates)
        views = {
            name: Sampled(own.get(name, self.rate), [Gaussian(self.noise_multiplier / cap), *asked])
            for name, cap in self.caps
        }
        largest = max(own.values(), default=self.rate)
        return Sampled(largest, [Gaussian(self.noise_multiplier), *asked], groups=views)


def _in_order(found: Mapping[str, float] | None, policy: ClippingPolicy) -> tuple[tuple[str, float], ...]:
    """Return what a policy says of its groups in their declared order, which ids count by."""
    if not found:
        return ()
    if set(found) != set(policy.groups):
        raise PrivacyError(
            f"{type(policy).__name__} speaks of the groups {', '.join(found)}, but {', '.join(policy.groups)} are declared; "
            "caps and rates need each declared group once"
        )
    return tuple((name, found[name]) for name in policy.groups)


def charge(policy: ClippingPolicy, noise_multiplier: float, rate: float) -> Sampled:
    """Return the event that one step under this policy is."""
    return Terms.of(policy, noise_multiplier, rate).event()


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
        self.releases = releases
        policy.prepare(tuple(trainable(module)), expected_batch_size)
        self._terms = Terms.of(policy, noise_multiplier, rate)
        self.event = self._terms.event()
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

        Raises:
            ConfigurationError: as many ids as examples were not given.
            BudgetExhausted: the target would be passed.
            PrivacyError: the policy's caps or noise are not those the target was solved for, or its rates not those
                that records are drawn at.
        """
        self._charged()
        norms = norms_for(self.policy, gradients)
        ids = torch.zeros(norms.shape[-1:], dtype=torch.int64) if group is None else group
        if ids.shape != norms.shape[-1:]:
            raise ConfigurationError(
                f"group ids of shape {tuple(ids.shape)} for {norms.shape[-1]} examples; give one id for each example"
            )
        ids = ids.to(norms.device)
        self._ask(norms, ids)
        weights = self._bounded(self.policy.weights(norms, ids), norms, ids)
        named = weights if weights.dim() == 1 else dict(zip(gradients.parameters, weights, strict=True))
        for name, part in gradients.weighted_sum(named).items():
            self._sums[name] = part if name not in self._sums else self._sums[name].add_(part)

    def release(self) -> None:
        """Charge, add noise, divide, write `.grad` of every trainable parameter, and answer the policy.

        A draw of no examples is released like any other.

        Raises:
            BudgetExhausted: the target would be passed; nothing was charged or released.
        """
        self._charged()()
        noise = self.noise.release(self.ledger.steps)
        parameters = trainable(self.module)
        totals = [self._total(name, parameter) for name, parameter in parameters.items()]
        noise.add(totals, self._terms.noise_multiplier * self._bound, self.expected_batch_size)
        for parameter, total in zip(parameters.values(), totals, strict=True):
            parameter.grad = total.to(parameter.dtype)
        self._answer(noise)
        self.begin()

    def _charged(self) -> Callable[[], None]:
        """Charge this draw, once, and return what `release` calls to wait until the disk has the record."""
        if self._charge is None:
            if self.releases == 0:
                raise BudgetExhausted("the privacy target allows no further step; train fewer steps or add noise")
            self._read_terms()
            if self.releases is not None:
                self.releases -= 1
            self._charge = self.ledger.begin(self.event)
        return self._charge

    def _read_terms(self) -> None:
        """Fix bound, caps and noise for this draw, and charge what they are now, not what they were at the start."""
        terms, self._bound = Terms.of(self.policy, self.noise_multiplier, self.rate), self.policy.bound
        if terms == self._terms:
            return
        if terms.rates != self._terms.rates:
            raise PrivacyError(
                f"{type(self.policy).__name__} changed its rates by group after the loader was made to draw by them; "
                "set them before the fit"
            )
        if self.releases is not None:
            raise PrivacyError(
                f"{type(self.policy).__name__} changed its caps or noise after the target was solved for them; "
                "give a noise multiplier in place of a Target, or leave them alone"
            )
        self._terms, self.event = terms, terms.event()

    def _total(self, name: str, parameter: Tensor) -> Tensor:
        """Return a parameter's sum over the draw, taken out of the step: a release that fails leaves no half-noised one."""
        dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        if name not in self._sums:
            return torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
        return self._sums.pop(name).detach().to(dtype).contiguous()

    def _ask(self, norms: Tensor, ids: Tensor) -> None:
        query = self.policy.ask(norms, ids)
        if query is not None:
            value = query.value.detach().to("cpu", torch.float64)
            self._asked = value if self._asked is None else self._asked + value
            self._sensitivity = query.sensitivity

    def _answer(self, noise: ReleaseNoise) -> None:
        for noise_multiplier in self._terms.queries:
            if self._asked is None:
                rows = (len(trainable(self.module)),) if self.policy.per_parameter else ()
                self._ask(torch.zeros(*rows, 0), torch.zeros(0, dtype=torch.int64))
            assert self._asked is not None, "a policy with a query asks it of every draw"
            std = noise_multiplier * self._sensitivity
            self.policy.tell(self._asked + noise.like(self._asked, std))

    def _bounded(self, weights: Tensor, norms: Tensor, ids: Tensor) -> Tensor:
        """Return the policy's weights with each contribution held within the declared sensitivity of its group."""
        if norms.dim() > 1:
            return self._bounded_together(weights, norms, ids)
        held = torch.minimum(weights, self._most(norms, ids) / norms.clamp_min(UNDERFLOW))
        return torch.where((held > 0) & norms.isfinite(), held, 0.0)

    def _bounded_together(self, weights: Tensor, norms: Tensor, ids: Tensor) -> Tensor:
        """Return `(p, n)` weights with √Σₗ(wₗᵢ‖gₗᵢ‖)² held within the declared sensitivity of the example's group."""
        usable = (weights > 0) & norms.isfinite().all(0)
        held = torch.where(usable, torch.minimum(weights, self._bound / norms.clamp_min(UNDERFLOW)), 0.0)
        contributed = torch.where(usable, held * norms.clamp_min(UNDERFLOW), 0.0)
        moved = torch.linalg.vector_norm(contributed.double(), dim=0)
        factor: Tensor = (self._most(norms[0], ids) / moved).clamp(max=1.0)
        return held * factor.to(norms.dtype)

    def _most(self, norms: Tensor, ids: Tensor) -> Tensor:
        """Return the declared sensitivity of each example's group, `(n,)` or for all."""
        bound = torch.tensor(self._bound, dtype=norms.dtype, device=norms.device)
        if all(cap == 1 for _, cap in self._terms.caps):
            return bound
        return bound * torch.tensor([cap for _, cap in self._terms.caps], dtype=norms.dtype, device=norms.device)[ids]


def norms_for(policy: ClippingPolicy, gradients: PerExample) -> Tensor:
    """Return the norms that a policy weighs by, `(n,)` or `(p, n)`; one that is NaN becomes infinite."""
    norms = gradients.norms_by_parameter() if policy.per_parameter else gradients.norms()
    return norms.nan_to_num(nan=math.inf, posinf=math.inf)


def trainable(module: nn.Module) -> Mapping[str, nn.Parameter]:
    """Return the module's trainable parameters by name, shared ones once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
