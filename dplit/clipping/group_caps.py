"""Starting thresholds by group, and caps under which they adapt, so that each group's ε can be stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dplit.clipping.policy import in_group_order, positive_by_group
from dplit.errors import ConfigurationError
from dplit.validation import positive_finite

Start = float | Mapping[str, float]
"""A starting threshold C for all groups, or `{group: C}`."""


class GroupCaps:
    """Starting thresholds of K groups and, if declared, their caps: sensitivity ratios ρ_g ≥ C_g/C_max.

    C_max is the largest threshold of the groups whose cap is 1; another group's threshold is at most ρ_g·C_max. So a
    record of group g moves the sum by at most ρ_g times the bound at every step, whatever the answers were.

    Args:
        start: one number for all groups, or `{group: C}`, above 0.
        caps: `{group: ρ_g}` with 0 < ρ_g ≤ 1, or None.

    Raises:
        ConfigurationError: numbers out of range.

    >>> caps = GroupCaps({"large": 4.0, "small": 1.0}, {"large": 1.0, "small": 0.5})
    >>> caps.starting_thresholds(["large", "small"]).tolist()
    [4.0, 1.0]
    >>> caps.limited(torch.tensor([4.0, 3.0], dtype=torch.float64)).tolist()
    [4.0, 2.0]
    """

    def __init__(self, start: Start, caps: Mapping[str, float] | None) -> None:
        self.start: Start = (
            positive_by_group("start", start) if isinstance(start, Mapping) else positive_finite("start", start)
        )
        self.caps = None if caps is None else positive_by_group("caps", caps)
        over = [f"{name} {cap:g}" for name, cap in (self.caps or {}).items() if cap > 1]
        if over:
            raise ConfigurationError(
                f"caps are fractions of the largest threshold, at most 1: {', '.join(over)} is not"
            )
        self._ratios: Tensor | None = None

    def starting_thresholds(self, groups: Sequence[str]) -> Tensor:
        """Keep the declared groups and return their `(K,)` starting thresholds.

        Raises:
            ConfigurationError: names that are not the declared groups, no cap of 1, or a cap below a starting value.
        """
        start = self.start if isinstance(self.start, Mapping) else dict.fromkeys(groups, self.start)
        thresholds = in_group_order("start", start, groups)
        if self.caps is None:
            return thresholds
        self._ratios = in_group_order("caps", self.caps, groups)
        if not bool((self._ratios == 1).any()):
            raise ConfigurationError(
                f"caps={self.caps} are relative to the largest threshold; give one group the cap 1"
            )
        self._check_start(thresholds, groups)
        return thresholds

    def limited(self, thresholds: Tensor) -> Tensor:
        """Return `(K,)` thresholds, lowered to their caps."""
        if self._ratios is None:
            return thresholds
        largest = thresholds[self._ratios == 1].max()
        return torch.minimum(thresholds, self._ratios * largest)

    def _check_start(self, thresholds: Tensor, groups: Sequence[str]) -> None:
        limits = self.limited(thresholds)
        for name, start, most in zip(groups, thresholds.tolist(), limits.tolist(), strict=True):
            if start > most * (1 + 1e-12):
                raise ConfigurationError(
                    f"the cap of {name} allows a threshold of {most:g} at the start, below its starting value {start:g}; "
                    f"give start by group, such as {{{name}: {most:g}, ...}}, or a larger cap"
                )
