"""Larger thresholds for the groups whose gradients are clipped more often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from dplit.clipping.caps import Caps, Start
from dplit.clipping.group_quantile import histogram
from dplit.clipping.policy import ClippingPolicy, Query, clip, each, kept_by_name, positive, within
from dplit.errors import ConfigurationError


class GroupAdaptive(ClippingPolicy):
    """Give a group the larger a threshold, the more of its gradients are larger than a common one (DPSGD-F).

    With the noisy counts m̃_k of ‖gᵢ‖ > C₀ and õ_k of ‖gᵢ‖ ≤ C₀, b̃_k = m̃_k + õ_k, and m̃, b̃ their sums over groups. Counts
    below 0 are taken as 0, and the ratio as 1 where a denominator is. An answer sets the thresholds of the next draw.

    Rule: wᵢ = min(1, C_k/‖gᵢ‖); then C_k = C₀(1 + (m̃_k/b̃_k)/(m̃/b̃)), within [C₀, (1 + K)C₀].
    Bound: max C_k over the declared groups, in the draw or not.
    Query: the histogram {under C₀, over C₀} × group; a record falls into one cell, so sensitivity 1.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the headline's; with caps ρ_k (ρ_k/σ)² + 1/σ_b² in place of the charge.
    Source: DPSGD-F, Xu et al. 2021, doi:10.1145/3447548.3467268.

    Args:
        start: C₀ > 0, or `{group: C₀}`.
        noise_multiplier: σ_b > 0, the standard deviation of each count.
        smoothing: in [0, 1): how much of the earlier noisy counts is kept; 0 is the published rule.
        caps: `{group: ρ_k}`, C_k held at ρ_k times the largest threshold; a cap of 1 for at least one group.
    """

    needs_groups = True

    def __init__(
        self,
        start: Start = 1.0,
        noise_multiplier: float = 10.0,
        smoothing: float = 0.0,
        caps: Mapping[str, float] | None = None,
    ) -> None:
        if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
            raise ConfigurationError(f"smoothing={smoothing!r} must lie in [0, 1)")
        self._caps = Caps(start, caps)
        self.start, self.declared_caps = self._caps.start, self._caps.caps
        self.noise_multiplier = positive("noise_multiplier", noise_multiplier)
        self.smoothing = float(smoothing)
        self._start = self._bounds = torch.empty(0, dtype=torch.float64)
        self._counts: Tensor | None = None

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
        return Query(histogram(norms, group, self._start), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        self._counts = self._smoothed(within(answer, -1e15, 1e15, otherwise=0.0))
        under, over = self._counts.clamp_min(0.0).unbind(1)
        own, all_ = _fraction(over, under + over), _fraction(over.sum(), (under + over).sum())
        ratio = torch.where((own >= 0) & (all_ > 0), own / all_, 1.0)
        grown = self._start * (1 + ratio.clamp(0.0, float(len(self.groups))))
        self._bounds = self._caps.held(grown)

    def _smoothed(self, counts: Tensor) -> Tensor:
        return counts if self._counts is None else self.smoothing * self._counts + (1 - self.smoothing) * counts

    def state_dict(self) -> dict[str, Any]:
        counts = None if self._counts is None else self._counts.tolist()
        return {"bounds": self.bounds, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._bounds = self._caps.held(kept_by_name("groups", state, self.groups))
        self._counts = self._kept_counts(state.get("counts"))

    def _kept_counts(self, counts: Any) -> Tensor | None:
        if counts is None:
            return None
        try:
            kept = torch.tensor(counts, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"the checkpoint's counts are no table of numbers ({counts!r})") from error
        if kept.shape != (len(self.groups), 2) or not bool(kept.isfinite().all()):
            raise ConfigurationError(f"the checkpoint's counts must be two finite numbers a group, got {counts!r}")
        return kept

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        ratios = {name: 1 / (k + 1) for k, name in enumerate(groups)}
        capped = cls(start={name: 2 * ratio for name, ratio in ratios.items()}, smoothing=0.5, caps=ratios)
        capped.declare(groups)
        return [cls.example(groups), capped]


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    """Return part/whole, and −1 where there is no whole."""
    return torch.where(whole > 0, part / whole, -1.0)
