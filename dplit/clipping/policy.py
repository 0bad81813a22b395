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
    """Whether `weights` reads the group ids."""

    groups: tuple[str, ...] = ()

    @property
    @abstractmethod
    def bound(self) -> float:
        """L2 sensitivity of the weighted sum: the largest wᵢ‖gᵢ‖ of a record of ANY declared group."""

    @abstractmethod
    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        """Return `(n,)` weights from `(n,)` norms and `(n,)` group ids."""

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
        """Return an instance declared for these groups, as tests and tables use it."""
        policy = cls()
        policy.declare(groups)
        return policy


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
