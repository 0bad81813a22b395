"""The Gaussian mechanism on all records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dplit import validation
from dplit.privacy.events.event import Event, fields_of, read_number, write_number


@dataclass(frozen=True)
class Gaussian(Event, kind="gaussian"):
    """The Gaussian mechanism on all records: N(f(D), (noise_multiplier · Δf)²).

    Attributes:
        noise_multiplier: standard deviation / L2 sensitivity under add or remove one record; infinite for a
            statistic that the record cannot move.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_multiplier", validation.positive("noise_multiplier", self.noise_multiplier))

    def dominating(self) -> tuple[float, float]:
        """Return (1, noise multiplier)."""
        return 1.0, self.noise_multiplier

    def for_group(self, group: str) -> Gaussian:
        """Return the event itself: its sensitivity is declared for every record alike."""
        return self

    def has_group(self, group: str) -> bool:
        """Return True."""
        return True

    def to_dict(self) -> dict[str, object]:
        """Return JSON types."""
        return {"kind": self.kind, "noise_multiplier": write_number(self.noise_multiplier)}

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Gaussian:
        """Build the event from what `to_dict` wrote."""
        (noise_multiplier,) = fields_of(data, "noise_multiplier")
        return cls(read_number(noise_multiplier))


def joint(noise_multipliers: Iterable[float]) -> float:
    """Return the noise multiplier of Gaussians released together: (Σ 1/σ_j²)^(-1/2), infinite if all are."""
    noises = tuple(noise_multipliers)
    least = min(noises, default=math.inf)
    return least / math.sqrt(math.fsum((least / noise) ** 2 for noise in noises)) if least < math.inf else math.inf
