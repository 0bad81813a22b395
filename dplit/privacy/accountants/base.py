"""What every accountant answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dplit import validation
from dplit.errors import ConfigurationError
from dplit.privacy.accountants.rdp import Part
from dplit.privacy.events import Event, joint

Composition = Mapping[Event, int] | Iterable[tuple[Event, int]]


class Bound(NamedTuple):
    """What is known of the smallest true ε: certified from both sides, with the computed value in between."""

    lower: float
    estimate: float
    upper: float


def parts(composition: Composition) -> tuple[Part, ...]:
    """Return the composition as sorted (rate, noise multiplier, times), unsampled Gaussians merged into one."""
    merged: dict[tuple[float, float], int] = {}
    for event, times in composition.items() if isinstance(composition, Mapping) else composition:
        if not isinstance(event, Event):
            raise ConfigurationError(f"{event!r} is no event; use Gaussian(...) or Sampled(...)")
        pair = event.dominating()
        merged[pair] = merged.get(pair, 0) + validation.count("times", times, least=0)
    kept = {pair: times for pair, times in merged.items() if times and pair[1] < math.inf}
    whole = joint(noise / math.sqrt(times) for (rate, noise), times in kept.items() if rate == 1)
    sampled = [(rate, noise, times) for (rate, noise), times in kept.items() if rate < 1]
    return tuple(sorted([*sampled, *([(1.0, whole, 1)] if whole < math.inf else [])]))
