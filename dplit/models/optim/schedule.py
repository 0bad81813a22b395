"""Learning-rate schedules over a known number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda progress: 1.0,
}
"""From the share of the steps after the warm-up that are done, in [0, 1], to the share of the highest rate."""


def factor(schedule: str, steps: int, warmup: float = 0.0) -> Callable[[int], float]:
    """Return a function from the step number, 0 at the first step, to the share of the highest rate; for `LambdaLR`.

    The rates are those of torch's LinearLR followed by its PolynomialLR or CosineAnnealingLR. The closed form has two
    properties that these do not have: a run that is resumed with more steps follows the schedule of its new length (they
    restore the old length from the checkpoint), and the cosine stays at zero after its end (theirs rises again).

    Args:
        schedule: a name in `SCHEDULES`.
        steps: the planned steps of the run.
        warmup: share of them in which the rate rises linearly. The first step has a rate above 0, because it costs privacy
            like any other.

    >>> linear = factor("linear", steps=6, warmup=1 / 3)
    >>> [linear(step) for step in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    warmup_steps = round(warmup * steps)

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return SCHEDULES[schedule](min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps)))

    return share
