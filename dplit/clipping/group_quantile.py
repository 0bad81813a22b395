"""The same quantile for every group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dplit.clipping.adaptive_by_fraction import SPAN
from dplit.clipping.adaptive_by_group import AdaptiveByGroup, histogram
from dplit.clipping.group_caps import Start
from dplit.clipping.policy import Query, clamp_answer
from dplit.validation import fraction, positive_finite


class GroupQuantile(AdaptiveByGroup):
    """Clip every group at the same quantile of its own gradient norms, which a noisy histogram follows.

    Counts below 0 are taken as 0, and C_k stays where the group's noisy total ũ_k + õ_k is within three standard deviations
    of 0. C_k stays within [start/1000, 1000·start].

    Rule: wᵢ = min(1, C_k/‖gᵢ‖); then C_k ← C_k·exp(−η(ũ_k/(ũ_k + õ_k) − γ)).
    Bound: max C_k over the declared groups, in the draw or not.
    Query: the histogram {under, over} × group; a record falls into one cell, so sensitivity 1.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the overall ε; with caps ρ_k (ρ_k/σ)² + 1/σ_b² in place of the charge.
    Source: Andrew et al. 2021, arXiv:1905.03871, per group.

    Args:
        quantile: γ in (0, 1), the fraction of each group's norms that should be at most its threshold.
        start: every C_k before the first answer, or `{group: C_k}`, above 0.
        learning_rate: η > 0.
        noise_multiplier: σ_b > 0, the standard deviation of each count.
        caps: sensitivity ratios `{group: ρ_k}`: C_k is at most ρ_k times the largest threshold; at least one ratio is 1.
    """

    def __init__(
        self,
        quantile: float = 0.5,
        start: Start = 1.0,
        learning_rate: float = 0.2,
        noise_multiplier: float = 10.0,
        caps: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(start, noise_multiplier, caps)
        self.quantile = fraction("quantile", quantile)
        self.learning_rate = positive_finite("learning_rate", learning_rate)

    def span(self) -> tuple[Tensor, Tensor]:
        return self._start / SPAN, self._start * SPAN

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(histogram(norms, group, self._bounds), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        under, over = clamp_answer(answer, 0.0, 1e15, otherwise=0.0).unbind(1)
        total = under + over
        known = total > 3 * self.noise_multiplier * 2**0.5
        fraction_under = torch.where(known, under / total.clamp_min(1.0), self.quantile)
        self.move(self._bounds * torch.exp(-self.learning_rate * (fraction_under - self.quantile)))
