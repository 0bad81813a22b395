"""Whether anything of losses and gradients follows from a value that Python read: the step is run again with another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from dplit.grads.ownership.blame import Place
from dplit.grads.ownership.python_reads import TRIED, Answers, EndlessStep, Read

Alter = Callable[[Any], Any]
Run = Callable[[Answers], int]
"""From what Python is given in place of what it reads to a number that tells how losses and gradients were computed."""

MOST_PLACES = 32
"""Most places that are tried; further ones are taken to matter."""


def without_effect(reads: Iterable[Read], run: Run) -> set[Place]:
    """Return the places from whose values nothing of the losses and gradients follows.

    At each place in turn, what Python reads is replaced: a truth value by its opposite, a number by several others. The
    runs are compared by how what they return was computed, operation by operation, not by its values. A
    run that ends in an error computes nothing, so that nothing follows from it either: a check raises where a truth value is
    the opposite. Of a number, some run must come to its end, since a table in which none of the others is found raises too.
    Sizes, errors and memory cannot be replaced.

    What is found holds for what was read in this run. That nothing follows from other values either is known only of
    runs in which Python decided the same, `Path.values`.

    Args:
        reads: what was read.
        run: runs the step with these answers, on the same random numbers.
    """
    reads = list(reads)
    sizes = {read.place for read in reads if read.operation not in TRIED}
    places = list(dict.fromkeys(read.place for read in reads if read.place not in sizes))[:MOST_PLACES]
    expected = run({}) if places else 0
    return {
        place
        for place in places
        if _changes_nothing(lambda alter, p=place: run({p: alter}), expected)  # type: ignore[misc]
    }


def _changes_nothing(run: Callable[[Alter], int], expected: int) -> bool:
    came_to_end, numbers = False, False

    def noted(alter: Alter) -> Alter:
        def noting(value: Any) -> Any:
            nonlocal numbers
            numbers |= not isinstance(value, bool)
            return alter(value)

        return noting

    for alter in ALTERATIONS:
        try:
            if run(noted(alter)) != expected:
                return False
        except EndlessStep:
            return False
        except Exception:  # the person's own check, or a value that makes no sense: the step ends there
            continue
        came_to_end = True
    return came_to_end or not numbers


def _of_number(change: Callable[[float], float]) -> Alter:
    """Return an alteration of numbers that keeps their type; truth values become their opposite."""

    def alter(value: Any) -> Any:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            changed = change(float(value))
            return int(changed) if math.isfinite(changed) else value + 1
        return change(value) if isinstance(value, float) else value

    return alter


ALTERATIONS: tuple[Alter, ...] = tuple(
    _of_number(change)
    for change in (
        lambda v: v + 1,
        lambda v: v - 1,
        lambda v: -v - 2,
        lambda v: 0.0 if v else 1.0,
        lambda v: v * 1e6 + 1e6,
        lambda v: math.nan,
    )
)
"""What is read in place of a value."""
