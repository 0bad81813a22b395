"""Thresholds that adapt under declared caps, so that each group's ε can be stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dplit.clipping.policy import by_group, positive, positive_by_group
from dplit.errors import ConfigurationError

Start = float | Mapping[str, float]


class Caps:
    """Starting thresholds of K groups and, if any are declared, caps ρ_g ≥ C_g/C_max.

    C_max is the largest threshold of the groups whose cap is 1; another group's is held at ρ_g·C_max. So a record of
    group g moves the sum by at most ρ_g times the bound at every step, whatever the answers were.

    Args:
        start: one number for all groups, or `{group: C}`, above 0.
        caps: `{group: ρ_g}` with 0 < ρ_g ≤ 1, or None.

    Raises:
        ConfigurationError: numbers out of range.
    """

    def __init__(self, start: Start, caps: Mapping[str, float] | None) -> None:
        by_name = isinstance(start, Mapping)
        self.start = positive_by_group("start", start) if by_name else positive("start", start)  # type: ignore[arg-type]
        self.caps = None if caps is None else positive_by_group("caps", caps)
        over = [f"{name} {cap:g}" for name, cap in (self.caps or {}).items() if cap > 1]
        if over:
            raise ConfigurationError(
                f"caps are fractions of the largest threshold, at most 1: {', '.join(over)} is not"
            )
        self._ratios: Tensor | None = None

    def declared(self, groups: Sequence[str]) -> Tensor:
        """Return the `(K,)` starting thresholds.

        Raises:
            ConfigurationError: names that are not the declared groups, no cap of 1, or a cap below a starting value.
        """
        start = self.start if isinstance(self.start, dict) else dict.fromkeys(groups, self.start)
        thresholds = by_group("start", start, groups)
        if self.caps is None:
            return thresholds
        self._ratios = by_group("caps", self.caps, groups)
        if not bool((self._ratios == 1).any()):
            raise ConfigurationError(
                f"caps={self.caps} are relative to the largest threshold; give one group the cap 1"
            )
        self._check(thresholds, groups)
        return thresholds

    def held(self, thresholds: Tensor) -> Tensor:
        """Return `(K,)` thresholds within the caps."""
        if self._ratios is None:
            return thresholds
        largest = thresholds[self._ratios == 1].max()
        return torch.minimum(thresholds, self._ratios * largest)

    def _check(self, thresholds: Tensor, groups: Sequence[str]) -> None:
        assert self._ratios is not None
        held = self.held(thresholds)
        for name, start, most in zip(groups, thresholds.tolist(), held.tolist(), strict=True):
            if start > most * (1 + 1e-12):
                raise ConfigurationError(
                    f"the cap of {name} allows a threshold of {most:g} at the start, below its starting value {start:g}; "
                    f"give start by group, such as {{{name}: {most:g}, ...}}, or a larger cap"
                )
