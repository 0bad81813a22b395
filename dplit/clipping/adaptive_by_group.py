"""What policies share that have one threshold for each group and move it by a noisy histogram of the norms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from dplit.clipping.group_caps import GroupCaps, Start
from dplit.clipping.policy import ClippingPolicy, State, clip, of_examples, saved_thresholds
from dplit.validation import positive_finite


class AdaptiveByGroup(ClippingPolicy):
    """Clip each gradient at the threshold of its group; a subclass asks, and moves the thresholds by the answers.

    Args:
        start: the thresholds before the first answer, one number or `{group: C}`, above 0.
        noise_multiplier: σ_b > 0, the standard deviation of each count.
        caps: sensitivity ratios `{group: ρ_k}`: a threshold is at most ρ_k times the largest one; at least one ratio is 1.

    Raises:
        ConfigurationError: numbers out of range.
    """

    needs_groups = True

    def __init__(self, start: Start, noise_multiplier: float, caps: Mapping[str, float] | None) -> None:
        self._caps = GroupCaps(start, caps)
        self.start, self.declared_caps = self._caps.start, self._caps.caps
        self.noise_multiplier = positive_finite("noise_multiplier", noise_multiplier)
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
        """The threshold of each declared group at this step. It is public, because only noisy answers moved it."""
        return dict(zip(self.groups, self._bounds.tolist(), strict=True))

    @abstractmethod
    def span(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest thresholds that an answer can lead to, `(K,)` each."""

    def declare(self, groups: Sequence[str]) -> None:
        super().declare(groups)
        self._start = self._caps.starting_thresholds(self.groups)
        self.move(self._start)

    def move(self, thresholds: Tensor) -> None:
        """Set the `(K,)` thresholds, held within `span` and the caps."""
        self._bounds = self._caps.limited(thresholds.clamp(*self.span()))

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        return clip(norms, of_examples(self._bounds, group, norms))

    def state_dict(self) -> State:
        return {"bounds": self.bounds}

    def load_state_dict(self, state: State) -> None:
        self.move(saved_thresholds("groups", state, self.groups))

    @classmethod
    def examples(cls, groups: Sequence[str]) -> list[Self]:
        ratios = {name: 1 / (k + 1) for k, name in enumerate(groups)}
        capped = cls(start={name: 2 * ratio for name, ratio in ratios.items()}, caps=ratios)  # type: ignore[call-arg]
        capped.declare(groups)
        return [cls.example(groups), capped]


def histogram(norms: Tensor, group: Tensor, thresholds: Tensor) -> Tensor:
    """Return `(K, 2)` counts of the norms under (or at) and over their group's threshold; NaN counts as over.

    >>> norms, group = torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([0, 0, 1])
    >>> histogram(norms, group, torch.tensor([2.0, 2.0], dtype=torch.float64)).tolist()
    [[1, 1], [0, 1]]
    """
    over = ~(norms <= of_examples(thresholds, group, norms))
    return torch.bincount(2 * group + over, minlength=2 * len(thresholds)).view(-1, 2)
