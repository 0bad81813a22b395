"""A declared threshold for each group."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, clip, positive
from dplit.errors import ConfigurationError


class GroupThresholds(ClippingPolicy):
    """Clip the examples of group g to a declared C_g: wᵢ = min(1, C_g/‖gᵢ‖).

    Bound: max C_g over the declared groups. Query: none. Charge: σ for the headline; a record of group g is
    protected by σ·C_max/C_g, so a group with a smaller threshold has the smaller ε.
    Source: "Scale", Boenisch et al. 2023, arXiv:2303.17046.

    Args:
        thresholds: `{group: C_g}`, every declared group and no other.
    """

    needs_groups = True

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        if not thresholds:
            raise ConfigurationError("thresholds={} must name a threshold for every declared group")
        self.thresholds = {name: positive(f"thresholds[{name!r}]", c) for name, c in thresholds.items()}

    @property
    def bound(self) -> float:
        return max(self.thresholds.values())

    @property
    def caps(self) -> Mapping[str, float]:
        return {name: c / self.bound for name, c in self.thresholds.items()}

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        if set(self.groups) != set(self.thresholds):
            raise ConfigurationError(
                f"GroupThresholds has thresholds for {', '.join(self.thresholds)}, but the declared groups are "
                f"{', '.join(self.groups)}; give each declared group one threshold"
            )

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        each = torch.tensor([self.thresholds[name] for name in self.groups], dtype=norms.dtype, device=norms.device)
        return clip(norms, each[group])

    @classmethod
    def example(cls, groups: Sequence[str]) -> Self:
        policy = cls({name: 1.0 / (k + 1) for k, name in enumerate(groups)})
        policy.declare(groups)
        return policy
