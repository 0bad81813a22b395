"""Declared weights of groups, inside or outside the clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from dplit.clipping.policy import (
    ClippingPolicy,
    clip,
    declare_all,
    in_group_order,
    of_examples,
    positive_by_group,
    zero_unless_finite,
)
from dplit.errors import ConfigurationError
from dplit.validation import positive_finite


class Reweighted(ClippingPolicy):
    """Weigh the loss of each group by a declared constant, before or after its gradient is clipped.

    Rule: inside, clip(w_g ∇ℓ, C): wᵢ = min(w_g, C/‖gᵢ‖); outside, w_g·clip(∇ℓ, C): wᵢ = w_g·min(1, C/‖gᵢ‖).
    Bound: C inside; C·max w_g over the declared groups outside.
    Query: none.
    Charge: σ.
    Per-group ε: inside the overall ε; outside at σ·max w/w_g.
    Source: importance weighting under DP-SGD; the bounds follow from Abadi et al. 2016, arXiv:1607.00133.

    Args:
        weights: `{group: w_g}`, every declared group and no other, each above 0.
        bound: C > 0.
        where: "inside" or "outside" the clip.
    """

    needs_groups = True

    def __init__(
        self, weights: Mapping[str, float], bound: float = 1.0, where: Literal["inside", "outside"] = "inside"
    ) -> None:
        if where not in ("inside", "outside"):
            raise ConfigurationError(f"where={where!r} must be 'inside' or 'outside' the clip")
        self.group_weights = positive_by_group("weights", weights)
        self.threshold, self.where = positive_finite("bound", bound), where
        self._weight_of_group = torch.empty(0, dtype=torch.float64)

    @property
    def bound(self) -> float:
        return self.threshold * (max(self.group_weights.values()) if self.where == "outside" else 1.0)

    @property
    def caps(self) -> Mapping[str, float]:
        if self.where == "inside":
            return dict.fromkeys(self.groups, 1.0)
        return {name: self.group_weights[name] / max(self.group_weights.values()) for name in self.groups}

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        self._weight_of_group = in_group_order("weights", self.group_weights, self.groups)

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        declared = of_examples(self._weight_of_group, group, norms)
        if self.where == "outside":
            return declared * clip(norms, self.threshold)
        return zero_unless_finite(torch.minimum(declared, self.threshold / norms), norms)

    @classmethod
    def example(cls, groups: Sequence[str]) -> Self:
        return cls.examples(groups)[0]

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        weights = {name: 1.0 + k for k, name in enumerate(groups)}
        policies = [cls(weights, where="inside"), cls(weights, where="outside")]
        declare_all(policies, groups)
        return policies
