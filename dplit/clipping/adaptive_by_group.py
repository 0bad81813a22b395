"""What policies share whose thresholds, one for each group, follow a noisy histogram of the norms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from dplit.clipping.group_caps import Caps, Start
from dplit.clipping.policy import ClippingPolicy, clip, each, kept_by_name, positive


class AdaptiveByGroup(ClippingPolicy):
    """Clip each example at its group's threshold; a subclass asks, and moves the thresholds by the answers.

    Args:
        start: the thresholds before the first answer, one number or `{group: C}`, above 0.
        noise_multiplier: σ_b > 0, the standard deviation of each count.
        caps: `{group: ρ_k}`, a threshold held at ρ_k times the largest one; a cap of 1 for at least one group.

    Raises:
        ConfigurationError: numbers out of range.
    """

    needs_groups = True

    def __init__(self, start: Start, noise_multiplier: float, caps: Mapping[str, float] | None) -> None:
        self._caps = Caps(start, caps)
        self.start, self.declared_caps = self._caps.start, self._caps.caps
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

    @abstractmethod
    def range(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest thresholds that any answer leads to, `(K,)` each."""

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        self._start = self._caps.declared(self.groups)
        self.move(self._start)

    def move(self, thresholds: Tensor) -> None:
        """Take `(K,)` thresholds, held within `range` and the caps."""
        self._bounds = self._caps.held(thresholds.clamp(*self.range()))

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, each(self._bounds, group, norms))

    def state_dict(self) -> dict[str, Any]:
        return {"bounds": self.bounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.move(kept_by_name("groups", state, self.groups))

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        ratios = {name: 1 / (k + 1) for k, name in enumerate(groups)}
        capped = cls(start={name: 2 * ratio for name, ratio in ratios.items()}, caps=ratios)  # type: ignore[call-arg]
        capped.declare(groups)
        return [cls.example(groups), capped]


def histogram(norms: Tensor, group: Tensor, thresholds: Tensor) -> Tensor:
    """Return `(K, 2)` counts of the examples under (or at) and over their group's threshold; NaN counts as over."""
    over = ~(norms <= each(thresholds, group, norms))
    return torch.bincount(2 * group + over, minlength=2 * len(thresholds)).view(-1, 2)
