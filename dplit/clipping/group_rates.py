"""Declared Poisson rates of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, clip, in_group_order, positive_by_group
from dplit.errors import ConfigurationError
from dplit.validation import positive_finite


class GroupRates(ClippingPolicy):
    """Draw the records of each group at its own rate: oversampling that is charged.

    Factors are declared constants; factors computed from the private sizes of groups would leak them. The noisy sum is
    divided by the loader's batch size, whatever the factors.

    Rule: a record of group g is drawn with probability q_g = f_g·q, q = batch size / records; wᵢ = min(1, C/‖gᵢ‖).
    Bound: C.
    Query: none.
    Charge: (max q_g, σ).
    Per-group ε: (q_g, σ) for group g; the group that is drawn more often has the larger ε.
    Source: "Sample", Boenisch et al. 2023, arXiv:2303.17046.

    Args:
        factors: `{group: f_g}`, every declared group and no other, each above 0.
        bound: C > 0.
    """

    needs_groups = True

    def __init__(self, factors: Mapping[str, float], bound: float = 1.0) -> None:
        self.factors = positive_by_group("factors", factors)
        self.threshold = positive_finite("bound", bound)

    @property
    def bound(self) -> float:
        return self.threshold

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        in_group_order("factors", self.factors, self.groups)

    def rates(self, rate: float) -> Mapping[str, float]:
        rates = {name: self.factors[name] * rate for name in self.groups}
        for name, probability in rates.items():
            if probability > 1:
                raise ConfigurationError(
                    f"factors[{name!r}]={self.factors[name]:g} times the rate {rate:g} is a probability of {probability:g}; "
                    "give a smaller factor or a smaller batch_size"
                )
        return rates

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, self.threshold)

    @classmethod
    def example(cls, groups: Sequence[str]) -> Self:
        policy = cls({name: 1.0 + k for k, name in enumerate(groups)})
        policy.declare(groups)
        return policy
