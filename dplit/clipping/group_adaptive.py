"""Larger thresholds for the groups whose gradients are clipped more often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from dplit.clipping.adaptive_by_group import AdaptiveByGroup, histogram
from dplit.clipping.group_caps import Start
from dplit.clipping.policy import Query, State, clamp_answer
from dplit.errors import ConfigurationError
from dplit.validation import real


class GroupAdaptive(AdaptiveByGroup):
    """Give a group a larger threshold, the more of its gradients are larger than a common one (DPSGD-F).

    With the noisy counts m̃_k of ‖gᵢ‖ > C₀ and õ_k of ‖gᵢ‖ ≤ C₀, b̃_k = m̃_k + õ_k, and m̃, b̃ their sums over groups. Counts
    below 0 are taken as 0, and the ratio is 1 where a denominator is 0. An answer sets the thresholds of the next draw.

    Rule: wᵢ = min(1, C_k/‖gᵢ‖); then C_k = C₀(1 + (m̃_k/b̃_k)/(m̃/b̃)), within [C₀, (1 + K)C₀].
    Bound: max C_k over the declared groups, in the draw or not.
    Query: the histogram {under C₀, over C₀} × group; a record falls into one cell, so sensitivity 1.
    Charge: 1/σ² + 1/σ_b², jointly.
    Per-group ε: the overall ε; with caps ρ_k (ρ_k/σ)² + 1/σ_b² in place of the charge.
    Source: DPSGD-F, Xu et al. 2021, doi:10.1145/3447548.3467268.

    Args:
        start: C₀ > 0, or `{group: C₀}`.
        noise_multiplier: σ_b > 0, the standard deviation of each count.
        smoothing: in [0, 1): how much of the earlier noisy counts is kept; 0 is the published rule.
        caps: sensitivity ratios `{group: ρ_k}`: C_k is at most ρ_k times the largest threshold; at least one ratio is 1.
    """

    def __init__(
        self,
        start: Start = 1.0,
        noise_multiplier: float = 10.0,
        smoothing: float = 0.0,
        caps: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(start, noise_multiplier, caps)
        self.smoothing = real("smoothing", smoothing)
        if not 0 <= self.smoothing < 1:
            raise ConfigurationError(f"smoothing={smoothing!r} must lie in [0, 1)")
        self._counts: Tensor | None = None

    def span(self) -> tuple[Tensor, Tensor]:
        return self._start, self._start * (1 + len(self.groups))

    def ask(self, norms: Tensor, group: Tensor) -> Query:
        return Query(histogram(norms, group, self._start), sensitivity=1.0)

    def tell(self, answer: Tensor) -> None:
        self._counts = self._smoothed(clamp_answer(answer, -1e15, 1e15, otherwise=0.0))
        under, over = self._counts.clamp_min(0.0).unbind(1)
        by_group, overall = _fraction(over, under + over), _fraction(over.sum(), (under + over).sum())
        ratio = torch.where((by_group >= 0) & (overall > 0), by_group / overall, 1.0)
        self.move(self._start * (1 + ratio))

    def _smoothed(self, counts: Tensor) -> Tensor:
        return counts if self._counts is None else self.smoothing * self._counts + (1 - self.smoothing) * counts

    def state_dict(self) -> State:
        return {**super().state_dict(), "counts": None if self._counts is None else self._counts.tolist()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._counts = self._saved_counts(state.get("counts"))

    def _saved_counts(self, counts: object) -> Tensor | None:
        if counts is None:
            return None
        try:
            saved = torch.tensor(counts, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"the checkpoint's counts are no table of numbers ({counts!r})") from error
        if saved.shape != (len(self.groups), 2) or not bool(saved.isfinite().all()):
            raise ConfigurationError(f"the checkpoint's counts must be two finite numbers a group, got {counts!r}")
        return saved

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        smooth = cls(smoothing=0.5)
        smooth.declare(groups)
        return [*super().examples(groups), smooth]


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    """Return part/whole, and −1 where there is no whole."""
    return torch.where(whole > 0, part / whole, -1.0)
