"""A threshold for each parameter or block, at the same quantile of its own norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from dplit.clipping.blocks import Blocks
from dplit.clipping.policy import ClippingPolicy, Query, between_0_and_1, clip, kept_by_name, positive, within

SPAN = 1e3
"""Before they are scaled, thresholds stay within this factor of the largest."""


class PerLayerAdaptive(ClippingPolicy):
    """Clip each parameter, or block, at the same quantile of its own norms, tracked by noisy counts; C stays.

    Rule: wₗᵢ = min(1, C_l/‖gₗᵢ‖); then C_l ← C_l·exp(−η(b̃_l − γ)), b̃_l the noisy fraction of ‖gₗᵢ‖ ≤ C_l, and all C_l are
        scaled so that √ΣC_l² = C.
    Bound: C.
    Query: Σ(bₗᵢ − ½) for each of L blocks; each record moves all L, so sensitivity √L/2; b̃_l = answer/B + ½.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the headline's.
    Source: He et al. 2022, arXiv:2212.01539; Andrew et al. 2021, arXiv:1905.03871.

    Args:
        bound: C > 0.
        blocks: prefixes of parameter names, one block each; None makes every parameter a block.
        quantile: γ in (0, 1).
        learning_rate: η > 0.
        noise_multiplier: σ_b > 0; the standard deviation of each count is σ_b·√L/2.
    """

    per_parameter = True

    def __init__(
        self,
        bound: float = 1.0,
        blocks: Sequence[str] | None = None,
        quantile: float = 0.5,
        learning_rate: float = 0.2,
        noise_multiplier: float = 10.0,
    ) -> None:
        self.threshold = positive("bound", bound)
        self._blocks = Blocks(blocks)
        self.blocks = self._blocks.prefixes
        self.quantile = between_0_and_1("quantile", quantile)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.noise_multiplier = positive("noise_multiplier", noise_multiplier)
        self._batch = 1.0
        self._kept: Mapping[str, Any] | None = None
        self._each = torch.empty(0, 1, dtype=torch.float64)

    @property
    def bound(self) -> float:
        return self.threshold

    @property
    def queries(self) -> tuple[float, ...]:
        return (self.noise_multiplier,)

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:
        self._batch = expected_batch_size
        self._blocks.prepare(parameters)
        equal = torch.ones(len(self._blocks.names), dtype=torch.float64)
        kept = equal if self._kept is None else kept_by_name("blocks", self._kept, self._blocks.names)
        self._each = self._scaled(kept[:, None])

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return self._blocks.spread(clip(self._blocks.norms(norms), self._each.to(norms.device)), norms)

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        under = self._blocks.norms(norms) <= self._each.to(norms.device)
        return Query((under.double() - 0.5).sum(1), sensitivity=math.sqrt(len(self._each)) / 2)

    def tell(self, answer: Tensor) -> None:
        under = within(answer / self._batch + 0.5, 0.0, 1.0, otherwise=self.quantile)
        self._each = self._scaled(self._each * torch.exp(-self.learning_rate * (under - self.quantile))[:, None])

    def _scaled(self, each: Tensor) -> Tensor:
        near = (each / each.max()).clamp_min(1 / SPAN)
        return near * (self.threshold / float(near.norm()))

    def state_dict(self) -> dict[str, Any]:
        if not len(self._each):
            return dict(self._kept or {})
        return {"bounds": dict(zip(self._blocks.names, self._each[:, 0].tolist(), strict=True))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept = state or None
        if len(self._each) and state:
            self._each = self._scaled(kept_by_name("blocks", state, self._blocks.names)[:, None])

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        found = [cls(), cls(blocks=["0", ""])]
        for policy in found:
            policy.declare(groups)
        return found
