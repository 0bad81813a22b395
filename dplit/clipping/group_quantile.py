"""The same quantile for every group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dplit.clipping.adaptive_by_group import AdaptiveByGroup, histogram
from dplit.clipping.group_caps import Start
from dplit.clipping.policy import Query, between_0_and_1, positive, within

SPAN = 1e3
"""Thresholds stay within [start/SPAN, start·SPAN], so that no answer, however noisy, makes them useless."""


class GroupQuantile(AdaptiveByGroup):
    """Clip every group at the same quantile of its own gradient norms, tracked by a noisy histogram.

    Counts below 0 are taken as 0, and C_k is left alone where the group's noisy total ũ_k + õ_k is within three standard
    deviations of nothing.

    Rule: wᵢ = min(1, C_k/‖gᵢ‖); then C_k ← C_k·exp(−η(ũ_k/(ũ_k + õ_k) − γ)).
    Bound: max C_k over the declared groups, in the draw or not.
    Query: the histogram {under, over} × group; a record falls into one cell, so sensitivity 1.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the headline's; with caps ρ_k (ρ_k/σ)² + 1/σ_b² in place of the charge.
    Source: Andrew et al. 2021, arXiv:1905.03871, per group.

    Args:
        quantile: γ in (0, 1), the fraction of each group that should lie under its threshold.
        start: every C_k before the first answer, or `{group: C_k}`, above 0.
        learning_rate: η > 0.
        noise_multiplier: σ_b > 0, the standard deviation of each count.
        caps: `{group: ρ_k}`, C_k held at ρ_k times the largest threshold; a cap of 1 for at least one group.
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
        self.quantile = between_0_and_1("quantile", quantile)
        self.learning_rate = positive("learning_rate", learning_rate)

    def range(self) -> tuple[Tensor, Tensor]:
        return self._start / SPAN, self._start * SPAN

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(histogram(norms, group, self._bounds), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        under, over = within(answer, 0.0, 1e15, otherwise=0.0).unbind(1)
        total = under + over
        fraction = torch.where(total > 3 * self.noise_multiplier * 2**0.5, under / total.clamp_min(1.0), self.quantile)
        self.move(self._bounds * torch.exp(-self.learning_rate * (fraction - self.quantile)))
