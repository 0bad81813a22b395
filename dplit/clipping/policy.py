"""The contract of clipping policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.groups import declared


@dataclass(frozen=True)
class Query:
    """A statistic of one draw, to be released with noise.

    Args:
        value: a sum over the examples of the draw, any shape; the sum of no examples has that shape too.
        sensitivity: the most one record of any declared group moves `value` in L2 norm.
    """

    value: Tensor
    sensitivity: float


class ClippingPolicy(ABC):
    """How much each example of a draw may weigh in the gradient sum Σᵢ wᵢ gᵢ.

    A policy sees norms, group ids and answers that were noised and charged; never the noise, never the ledger,
    and it lets nothing else move its thresholds. Weights are finite and at least 0 whatever the norms, and 0 where
    a norm is not finite. The noise added to the sum has standard deviation `noise_multiplier × bound`.
    """

    needs_groups: ClassVar[bool] = False
    """Whether `weights`, `ask` or `rates` reads groups."""

    per_parameter: ClassVar[bool] = False
    """Whether norms and weights are by parameter, `(p, n)`, and not of the whole gradient, `(n,)`."""

    groups: tuple[str, ...] = ()

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
        """Noise multipliers of what `ask` asks each step: none, or one."""
        return ()

    @property
    def caps(self) -> Mapping[str, float] | None:
        """For each declared group a public constant ρ ≤ 1 with wᵢ‖gᵢ‖ ≤ ρ·bound at every step, or None.

        None where thresholds adapt: then only the headline ε holds for each group.
        """
        return dict.fromkeys(self.groups, 1.0)

    def rates(self, rate: float) -> Mapping[str, float] | None:
        """Return each declared group's inclusion probability, or None where `rate` is every record's.

        Args:
            rate: q = batch size / records, of the loader.

        Raises:
            ConfigurationError: a rate over 1.
        """
        return None

    def ask(self, norms: Tensor, group: Tensor) -> Query | None:
        """Return a bounded statistic of this draw (or of part of it: parts are added up), or None."""
        return None

    def tell(self, answer: Tensor) -> None:
        """Take the noisy answer, of the query's shape, on the CPU in float64. It may be negative or huge."""
        raise AssertionError(f"{type(self).__name__} asks nothing, so nothing can be told")

    def declare(self, groups: Sequence[str]) -> None:
        """Learn the declared list of groups, before the first step.

        Raises:
            ConfigurationError: the policy needs groups and none are declared, or its settings do not fit them.
        """
        self.groups = declared(groups)
        if self.needs_groups and not self.groups:
            raise ConfigurationError(
                f"{type(self).__name__} clips by group: declare the list, as in DPStrategy(groups=['Female', 'Male'])"
            )

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:  # noqa: B027
        """Learn the public constants of a fit, after `declare` and before the first step.

        Args:
            parameters: names of the p trainable parameters, in the order of the rows of `(p, n)` norms.
            expected_batch_size: what noisy counts may be divided by to become fractions.

        Raises:
            ConfigurationError: the policy's settings do not fit them.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what `tell` has changed, as plain numbers and lists."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take back what `state_dict` returned."""

    def settings(self) -> dict[str, Any]:
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
        """Return instances that between them take every road through the policy, for the contract tests."""
        return [cls.example(groups)]


def clip(norms: Tensor, bound: Tensor | float) -> Tensor:
    """Return min(1, C/‖g‖), and 0 where the norm is not finite."""
    return finite((bound / norms).clamp(max=1.0), norms)


def finite(weights: Tensor, norms: Tensor) -> Tensor:
    """Return the weights, 0 where a norm is not finite."""
    return torch.where(norms.isfinite(), weights, torch.zeros_like(weights))


def positive(name: str, value: float) -> float:
    """Return value as float.

    Raises:
        ConfigurationError: it is no finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < float(value) < float("inf"):
        raise ConfigurationError(f"{name}={value!r} must be a finite number above 0")
    return float(value)


def by_group(what: str, values: Mapping[str, float], groups: Sequence[str]) -> Tensor:
    """Return the `(K,)` float64 values of the declared groups, in their order.

    Raises:
        ConfigurationError: a declared group has no value, or a value belongs to no declared group.
    """
    if set(values) != set(groups):
        raise ConfigurationError(
            f"{what} names {', '.join(map(str, values))}, but the declared groups are {', '.join(groups)}; "
            f"give each declared group one value, and no other"
        )
    return torch.tensor([values[name] for name in groups], dtype=torch.float64)


def each(values: Tensor, group: Tensor, norms: Tensor) -> Tensor:
    """Return `(n,)`: the value of each example's group out of `(K,)`, in the type and place of the norms."""
    return values.to(norms.device, norms.dtype)[group]


def positive_by_group(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the values as floats.

    Raises:
        ConfigurationError: there are none, or one is no finite number above 0.
    """
    if not isinstance(values, Mapping) or not values:
        raise ConfigurationError(f"{name}={values!r} must give each declared group a number above 0")
    return {str(group): positive(f"{name}[{group!r}]", value) for group, value in values.items()}


def between_0_and_1(name: str, value: float) -> float:
    """Return value as float.

    Raises:
        ConfigurationError: it does not lie between 0 and 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigurationError(f"{name}={value!r} must lie between 0 and 1")
    return float(value)


def within(answer: Tensor, low: float, high: float, otherwise: float) -> Tensor:
    """Return a noisy answer held within [low, high], and `otherwise` where it is NaN."""
    return answer.nan_to_num(nan=otherwise, posinf=high, neginf=low).clamp(low, high)


def kept_number(name: str, state: Mapping[str, Any]) -> float:
    """Return a threshold that a checkpoint kept.

    Raises:
        ConfigurationError: there is none, or it is no finite number above 0.
    """
    if name not in state:
        raise ConfigurationError(f"the checkpoint's policy has no {name}; it was written by another policy")
    return positive(f"the checkpoint's {name}", state[name])


def kept_by_name(what: str, state: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    """Return the `(K,)` float64 thresholds that a checkpoint kept by name, in the order of `names`.

    Raises:
        ConfigurationError: they are of other names, or one is no finite number above 0.
    """
    saved = state.get("bounds")
    if not isinstance(saved, Mapping) or set(saved) != set(names):
        found = ", ".join(map(str, saved)) if isinstance(saved, Mapping) else "none"
        raise ConfigurationError(f"the checkpoint has thresholds for the {what} {found}, not {', '.join(names)}")
    return torch.tensor([positive(f"the checkpoint's {n}", saved[n]) for n in names], dtype=torch.float64)
