"""The same quantile for every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from dplit.clipping.caps import Caps, Start
from dplit.clipping.policy import (
    ClippingPolicy,
    Query,
    between_0_and_1,
    clip,
    each,
    kept_by_name,
    positive,
    within,
)

SPAN = 1e3
"""Thresholds stay within [start/SPAN, start·SPAN], so that no answer, however noisy, makes them useless."""


class GroupQuantile(ClippingPolicy):
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

    needs_groups = True

    def __init__(
        self,
        quantile: float = 0.5,
        start: Start = 1.0,
        learning_rate: float = 0.2,
        noise_multiplier: float = 10.0,
        caps: Mapping[str, float] | None = None,
    ) -> None:
        self.quantile = between_0_and_1("quantile", quantile)
        self._caps = Caps(start, caps)
        self.start, self.declared_caps = self._caps.start, self._caps.caps
        self.learning_rate = positive("learning_rate", learning_rate)
        self.noise_multiplier = positive("noise_multiplier", noise_multiplier)
        self._start = self._bounds = torch.empty(0, dtype=torch.float64)

    @property
    def bound(self) -> float:
        return float(self._bounds.max()) if self.groups else float("nan")

    @property
    def queries(self) -> tuple[float, ...]:
        return (self.noise_multiplier,)

    @property
    def caps(self) -> Mapping[str, float] | None:
        return None if self.declared_caps is None else {name: self.declared_caps[name] for name in self.groups}

    @property
    def bounds(self) -> dict[str, float]:
        """The threshold of each declared group at this step; public, since only noisy answers moved it."""
        return dict(zip(self.groups, self._bounds.tolist(), strict=True))

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        self._start = self._caps.declared(self.groups)
        self._bounds = self._caps.held(self._start)

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, each(self._bounds, group, norms))

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(histogram(norms, group, self._bounds), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        under, over = within(answer, 0.0, 1e15, otherwise=0.0).unbind(1)
        total = under + over
        fraction = torch.where(total > 3 * self.noise_multiplier * 2**0.5, under / total.clamp_min(1.0), self.quantile)
        moved = self._bounds * torch.exp(-self.learning_rate * (fraction - self.quantile))
        self._bounds = self._caps.held(torch.clamp(moved, self._start / SPAN, self._start * SPAN))

    def state_dict(self) -> dict[str, Any]:
        return {"bounds": self.bounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._bounds = self._caps.held(kept_by_name("groups", state, self.groups))

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        ratios = {name: 1 / (k + 1) for k, name in enumerate(groups)}
        capped = cls(start={name: 2 * ratio for name, ratio in ratios.items()}, caps=ratios)
        capped.declare(groups)
        return [cls.example(groups), capped]


def histogram(norms: Tensor, group: Tensor, thresholds: Tensor) -> Tensor:
    """Return `(K, 2)` counts of the examples under (or at) and over their group's threshold; NaN counts as over."""
    over = ~(norms <= each(thresholds, group, norms))
    return torch.bincount(2 * group + over, minlength=2 * len(thresholds)).view(-1, 2)
