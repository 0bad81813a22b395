"""A threshold for each parameter or block, at the same quantile of its own norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from dplit.clipping.adaptive_by_fraction import SPAN, AdaptiveByFraction
from dplit.clipping.blocks import Blocks
from dplit.clipping.policy import Query, State, clip, declare_all, saved_thresholds
from dplit.validation import fraction, positive_finite


class PerLayerAdaptive(AdaptiveByFraction):
    """Clip each parameter, or block, at the same quantile of its own norms, which noisy counts follow; C stays.

    Before they are scaled, thresholds stay within a factor of 1000 of the largest.

    Rule: wₗᵢ = min(1, C_l/‖gₗᵢ‖); then C_l ← C_l·exp(−η(b̃_l − γ)), b̃_l the noisy fraction of ‖gₗᵢ‖ ≤ C_l, and all C_l are
        scaled so that √ΣC_l² = C.
    Bound: C.
    Query: Σ(bₗᵢ − ½) for each of L blocks; each record moves all L, so sensitivity √L/2; b̃_l = answer/B + ½.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the overall ε.
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
        self.threshold = positive_finite("bound", bound)
        self._blocks = Blocks(blocks)
        self.blocks = self._blocks.prefixes
        self.quantile = fraction("quantile", quantile)
        super().__init__(learning_rate, noise_multiplier)
        self._loaded: State | None = None
        self._thresholds = torch.empty(0, 1, dtype=torch.float64)

    @property
    def bound(self) -> float:
        return self.threshold

    def prepare(self, parameters: Sequence[str], expected_batch_size: float) -> None:
        super().prepare(parameters, expected_batch_size)
        self._blocks.prepare(parameters)
        names = self._blocks.names
        equal = torch.ones(len(names), dtype=torch.float64)
        thresholds = equal if self._loaded is None else saved_thresholds("blocks", self._loaded, names)
        self._thresholds = self._scaled(thresholds[:, None])

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return self._blocks.spread(clip(self._blocks.norms(norms), self._thresholds.to(norms.device)), norms)

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        under = self._blocks.norms(norms) <= self._thresholds.to(norms.device)
        return Query((under.double() - 0.5).sum(1), sensitivity=math.sqrt(len(self._thresholds)) / 2)

    def tell(self, answer: Tensor) -> None:
        under = self.noisy_fraction(answer, offset=0.5, otherwise=self.quantile)
        steps = torch.exp(-self.learning_rate * (under - self.quantile))
        self._thresholds = self._scaled(self._thresholds * steps[:, None])

    def _scaled(self, thresholds: Tensor) -> Tensor:
        """Return `(L, 1)` thresholds in the same ratios, as far as these are within `SPAN`, with √ΣC_l² = C."""
        ratios = (thresholds / thresholds.max()).clamp_min(1 / SPAN)
        return ratios * (self.threshold / float(ratios.norm()))

    def state_dict(self) -> State:
        if not len(self._thresholds):
            return dict(self._loaded or {})
        return {"bounds": dict(zip(self._blocks.names, self._thresholds[:, 0].tolist(), strict=True))}

    def load_state_dict(self, state: State) -> None:
        # Lightning loads a checkpoint before the parameters are known: then `prepare` reads it.
        self._loaded = state or None
        if len(self._thresholds) and state:
            self._thresholds = self._scaled(saved_thresholds("blocks", state, self._blocks.names)[:, None])

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        policies = [cls(), cls(blocks=["0", ""])]
        declare_all(policies, groups)
        return policies
