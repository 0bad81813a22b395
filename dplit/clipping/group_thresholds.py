"""A declared threshold for each group."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, clip, in_group_order, of_examples, positive_by_group


class GroupThresholds(ClippingPolicy):
    """Clip the gradients of each group to its declared threshold.

    Rule: wᵢ = min(1, C_g/‖gᵢ‖) for an example of group g.
    Bound: max C_g over the declared groups.
    Query: none.
    Charge: σ.
    Per-group ε: at σ·C_max/C_g; a group with a smaller threshold has the smaller ε.
    Source: "Scale", Boenisch et al. 2023, arXiv:2303.17046.

    Args:
        thresholds: `{group: C_g}`, every declared group and no other, each above 0.
    """

    needs_groups = True

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        self.thresholds = positive_by_group("thresholds", thresholds)
        self._thresholds = torch.empty(0, dtype=torch.float64)

    @property
    def bound(self) -> float:
        return max(self.thresholds.values())

    @property
    def caps(self) -> Mapping[str, float]:
        return {name: self.thresholds[name] / self.bound for name in self.groups}

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        self._thresholds = in_group_order("thresholds", self.thresholds, self.groups)

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, of_examples(self._thresholds, group, norms))

    @classmethod
    def example(cls, groups: Sequence[str]) -> Self:
        policy = cls({name: 1.0 / (k + 1) for k, name in enumerate(groups)})
        policy.declare(groups)
        return policy
