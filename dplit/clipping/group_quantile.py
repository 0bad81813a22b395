"""The same quantile for every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dplit.clipping.policy import ClippingPolicy, Query, clip, positive
from dplit.errors import ConfigurationError

SPAN = 1e3
"""Thresholds stay within [start/SPAN, start·SPAN], so that no answer, however noisy, makes them useless."""


class GroupQuantile(ClippingPolicy):
    """Clip every group at the same quantile of its own gradient norms.

    Asks one noisy histogram a step, {under, over} × group: a record falls into one cell, so its sensitivity is 1.
    Then C_k ← C_k·exp(−η(ũ_k/(ũ_k + õ_k) − γ)), counts below 0 taken as 0, and C_k left alone where the group's
    noisy total is within three standard deviations of nothing.

    Bound: max C_k over the declared groups, in the draw or not. Charge: jointly with the gradient of its draw,
    1/σ² + 1/σ_b². Thresholds adapt, so a group's ε is the headline's.
    Source: Andrew et al. 2021, arXiv:1905.03871, per group.

    Args:
        quantile: γ in (0, 1), the fraction of each group that should lie under its threshold.
        start: every C_k before the first answer, > 0.
        learning_rate: η > 0.
        noise_multiplier: σ_b > 0, the standard deviation of each count.
    """

    needs_groups = True

    def __init__(
        self, quantile: float = 0.5, start: float = 1.0, learning_rate: float = 0.2, noise_multiplier: float = 10.0
    ) -> None:
        if not 0 < quantile < 1:
            raise ConfigurationError(f"quantile={quantile!r} must lie between 0 and 1")
        self.quantile = float(quantile)
        self.start = positive("start", start)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.noise_multiplier = positive("noise_multiplier", noise_multiplier)
        self._bounds = torch.empty(0, dtype=torch.float64)

    @property
    def bound(self) -> float:
        return float(self._bounds.max()) if self.groups else self.start

    @property
    def queries(self) -> tuple[float, ...]:
        return (self.noise_multiplier,)

    @property
    def caps(self) -> Mapping[str, float] | None:
        return None

    @property
    def bounds(self) -> dict[str, float]:
        """The threshold of each declared group at this step; public, since only noisy answers moved it."""
        return dict(zip(self.groups, self._bounds.tolist(), strict=True))

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        self._bounds = torch.full((len(self.groups),), self.start, dtype=torch.float64)

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, self._each(norms, group))

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        over = ~(norms <= self._each(norms, group))
        cells = torch.bincount(2 * group + over, minlength=2 * len(self.groups))
        return Query(cells.view(-1, 2), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        under, over = answer.nan_to_num(0.0).clamp(0.0, 1e15).unbind(1)
        total = under + over
        fraction = torch.where(total > 3 * self.noise_multiplier * 2**0.5, under / total.clamp_min(1.0), self.quantile)
        moved = self._bounds * torch.exp(-self.learning_rate * (fraction - self.quantile))
        self._bounds = moved.clamp(self.start / SPAN, self.start * SPAN)

    def state_dict(self) -> dict[str, Any]:
        return {"bounds": self.bounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        saved = state["bounds"]
        if set(saved) != set(self.groups):
            raise ConfigurationError(
                f"the checkpoint has thresholds for {', '.join(saved)}, not {', '.join(self.groups)}"
            )
        self._bounds = torch.tensor([saved[name] for name in self.groups], dtype=torch.float64)

    def _each(self, norms: Tensor, group: Tensor) -> Tensor:
        return self._bounds.to(norms.dtype).to(norms.device)[group]
