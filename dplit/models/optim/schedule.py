"""Learning-rate schedules over a known number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
"""From the share of the steps after the warm-up that are done to the share of the highest rate."""


def factor(schedule: str, steps: int, warmup: float = 0.0) -> Callable[[int], float]:
    """Return the share of the highest rate at step 0, 1, ….

    Args:
        schedule: a name in `SCHEDULES`.
        steps: planned steps of the run.
        warmup: share of them in which the rate rises on a line; the first step has a rate above 0, as it is paid for.

    """
    rising = round(warmup * steps)

    def at(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return SCHEDULES[schedule](min(1.0, (step - rising) / max(1, steps - rising)))

    return at
