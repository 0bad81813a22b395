"""The contract of clipping policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.groups import declared
from dplit.validation import positive_finite

State = Mapping[str, object]
"""What a checkpoint keeps of a policy: names and plain numbers, lists or mappings of them."""


@dataclass(frozen=True)
class Query:
    """A statistic of one draw, to be released with noise of standard deviation noise multiplier × sensitivity.

    Args:
        value: a sum over the examples of the draw, any shape; the sum of no examples has that shape too.
        sensitivity: the largest L2 distance by which adding or removing one record of any declared group moves `value`.
    """

    value: Tensor
    sensitivity: float


class ClippingPolicy(ABC):
    """How much each example of a draw may weigh in the gradient sum Σᵢ wᵢ gᵢ.

    A policy sees norms, group ids and answers that were noised and charged. It never sees the noise or the ledger, and
    nothing but answers moves its thresholds. Weights are finite and at least 0 whatever the norms, and 0 where a norm is
    not finite. The noise added to the sum has standard deviation `noise_multiplier × bound`.
    """

    needs_groups: ClassVar[bool] = False
    """Whether `weights`, `ask` or `rates` depends on groups."""

    per_parameter: ClassVar[bool] = False
    """Whether norms and weights are by parameter, `(p, n)`, and not of the whole gradient, `(n,)`."""

    groups: tuple[str, ...] = ()
    """The declared list, K names, once `declare` was called."""

    @property
    @abstractmethod
    def bound(self) -> float:
        """L2 sensitivity of the weighted sum: the largest wᵢ‖gᵢ‖ of a record of ANY declared group.

        Where norms are by parameter it is the largest √Σₗ(wₗᵢ‖gₗᵢ‖)².
        """

    @abstractmethod
    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        """Return weights of the norms' shape from `(n,)` norms, or `(p, n)` by parameter, and `(n,)` group ids."""

    @property
    def queries(self) -> tuple[float, ...]:
        """Noise multipliers σ_b of the queries of each step: none, or one."""
        return ()

    @property
    def caps(self) -> Mapping[str, float] | None:
        """Sensitivity ratios: a public constant ρ ≤ 1 for each declared group with wᵢ‖gᵢ‖ ≤ ρ·bound at every step.

        None where thresholds adapt without such constants: then only the overall ε holds for each group.
        """
        return dict.fromkeys(self.groups, 1.0)

    def rates(self, rate: float) -> Mapping[str, float] | None:
        """Return the probability with which a record of each declared group is drawn, or None where it is `rate` for all.

        Args:
            rate: q = batch size / records, of the loader.

        Raises:
            ConfigurationError: a group's rate would be larger than 1.
        """
        return None

    def ask(self, norms: Tensor, group: Tensor) -> Query | None:
        """Return a bounded statistic of this draw, or of a part of it (the values of parts are added up), or None."""
        return None

    def tell(self, answer: Tensor) -> None:
        """Move the thresholds by the noisy answer, of the query's shape, on the CPU in float64. It may be negative or huge."""
        raise AssertionError(f"{type(self).__name__} asks nothing, so there is no answer")

    def declare(self, groups: Sequence[str]) -> None:
        """Keep the declared list of groups, before the first step.

        Raises:
            ConfigurationError: the policy needs groups and none are declared, or its settings do not fit them.
        """
        self.groups = declared(groups)
        if self.needs_groups and not self.groups:
            raise ConfigurationError(
                f"{type(self).__name__} clips by group: declare the list, as in DPStrategy(groups=['Female', 'Male'])"
            )

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:  # noqa: B027
        """Keep the public constants of a fit, after `declare` and before the first step.

        Args:
            parameters: names of the p trainable parameters, in the order of the rows of `(p, n)` norms.
            expected_batch_size: B, by which a noisy count is divided to become a fraction.

        Raises:
            ConfigurationError: the policy's settings do not fit them.
        """

    def state_dict(self) -> State:
        """Return what `tell` has changed, as plain numbers and lists."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Restore what `state_dict` returned.

        Raises:
            ConfigurationError: it is not the state of such a policy.
        """

    def settings(self) -> dict[str, object]:
        """Return the public settings, for the privacy statement."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "groups"}

    @classmethod
    def example(cls, groups: Sequence[str]) -> Self:
        """Return an instance with plain settings, declared for these groups."""
        policy = cls()
        policy.declare(groups)
        return policy

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        """Return instances that together run every branch of the policy, for the contract tests."""
        return [cls.example(groups)]


def declare_all(policies: Sequence[ClippingPolicy], groups: Sequence[str]) -> None:
    """Declare the groups to each of the policies."""
    for policy in policies:
        policy.declare(groups)


# -- weights ---------------------------------------------------------------------------------------------------------


def clip(norms: Tensor, bound: Tensor | float) -> Tensor:
    """Return min(1, C/‖g‖), of the norms' shape, and 0 where the norm is not finite.

    >>> clip(torch.tensor([0.0, 1.0, 4.0, torch.nan]), 2.0)
    tensor([1.0000, 1.0000, 0.5000, 0.0000])
    """
    return zero_unless_finite((bound / norms).clamp(max=1.0), norms)


def zero_unless_finite(weights: Tensor, norms: Tensor) -> Tensor:
    """Return the weights, 0 where the norm is not finite."""
    return torch.where(norms.isfinite(), weights, torch.zeros_like(weights))


def of_examples(values: Tensor, group: Tensor, norms: Tensor) -> Tensor:
    """Return `(n,)`: the value of each example's group out of `(K,)`, in the type and on the device of the norms."""
    return values.to(norms.device, norms.dtype)[group]


# -- settings --------------------------------------------------------------------------------------------------------


def positive_by_group(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the values as floats.

    Raises:
        ConfigurationError: there are none, or one is no finite number above 0.
    """
    if not isinstance(values, Mapping) or not values:
        raise ConfigurationError(f"{name}={values!r} must give each declared group a number above 0")
    return {str(group): positive_finite(f"{name}[{group!r}]", value) for group, value in values.items()}


def in_group_order(name: str, values: Mapping[str, float], groups: Sequence[str]) -> Tensor:
    """Return the `(K,)` float64 values of the declared groups, in their order.

    Raises:
        ConfigurationError: a declared group has no value, or a value belongs to no declared group.
    """
    if set(values) != set(groups):
        raise ConfigurationError(
            f"{name} names {', '.join(map(str, values))}, but the declared groups are {', '.join(groups)}; "
            f"give each declared group one value, and no other"
        )
    return torch.tensor([values[group] for group in groups], dtype=torch.float64)


# -- answers and checkpoints -----------------------------------------------------------------------------------------


def clamp_answer(answer: Tensor, low: float, high: float, otherwise: float) -> Tensor:
    """Return a noisy answer clamped to [low, high], and `otherwise` where it is NaN."""
    return answer.nan_to_num(nan=otherwise, posinf=high, neginf=low).clamp(low, high)


def saved_threshold(name: str, state: State) -> float:
    """Return a threshold from a checkpoint.

    Raises:
        ConfigurationError: there is none, or it is no finite number above 0.
    """
    if name not in state:
        raise ConfigurationError(f"the checkpoint's policy has no {name}; it was written by another policy")
    return positive_finite(f"the checkpoint's {name}", state[name])


def saved_thresholds(what: str, state: State, names: Sequence[str]) -> Tensor:
    """Return the thresholds of a checkpoint's "bounds", float64, in the order of `names`.

    Args:
        what: "groups" or "blocks", for messages.
        state: of a checkpoint.
        names: of the groups or blocks.

    Raises:
        ConfigurationError: they are of other names, or one is no finite number above 0.
    """
    bounds = state.get("bounds")
    if not isinstance(bounds, Mapping) or set(bounds) != set(names):
        saved = ", ".join(map(str, bounds)) if isinstance(bounds, Mapping) else "none"
        raise ConfigurationError(f"the checkpoint has thresholds for the {what} {saved}, not {', '.join(names)}")
    return torch.tensor([positive_finite(f"the checkpoint's {n}", bounds[n]) for n in names], dtype=torch.float64)
