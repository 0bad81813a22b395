"""A threshold for each parameter or block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from dplit.clipping.blocks import Blocks
from dplit.clipping.policy import ClippingPolicy, clip, declare_all, positive_by_group
from dplit.errors import ConfigurationError
from dplit.validation import positive_finite


class PerLayer(ClippingPolicy):
    """Clip each parameter, or block of parameters, to a threshold of its own.

    Rule: wₗᵢ = min(1, C_l/‖gₗᵢ‖) for block l.
    Bound: √ΣC_l².
    Query: none.
    Charge: σ.
    Per-group ε: the overall ε.
    Source: He et al. 2022, arXiv:2212.01539.

    Args:
        bound: C > 0, shared equally: C_l = C/√L. Not used where `bounds` is given.
        blocks: prefixes of parameter names, one block each; None makes every parameter a block.
        bounds: `{prefix: C_l}` in place of `bound` and `blocks`.
    """

    per_parameter = True

    def __init__(
        self, bound: float = 1.0, blocks: Sequence[str] | None = None, bounds: Mapping[str, float] | None = None
    ) -> None:
        if bounds is not None and blocks is not None:
            raise ConfigurationError("bounds names the blocks already; leave blocks out")
        self.bounds = None if bounds is None else positive_by_group("bounds", bounds)
        self._blocks = Blocks(blocks if self.bounds is None else tuple(self.bounds))
        self.blocks = self._blocks.prefixes
        self.threshold = positive_finite("bound", math.hypot(*self.bounds.values()) if self.bounds else bound)

    @property
    def bound(self) -> float:
        return self.threshold

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:
        self._blocks.prepare(parameters)

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        block_norms = self._blocks.norms(norms)
        return self._blocks.spread(clip(block_norms, self._thresholds().to(norms.device)), norms)

    def _thresholds(self) -> Tensor:
        """Return `(L, 1)` thresholds."""
        if self.bounds is not None:
            return torch.tensor([[self.bounds[name]] for name in self._blocks.names], dtype=torch.float64)
        count = max(len(self._blocks.names), 1)
        return torch.full((count, 1), self.threshold / math.sqrt(count), dtype=torch.float64)

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        policies = [cls(), cls(bounds={"0": 3.0, "": 0.5})]
        declare_all(policies, groups)
        return policies
