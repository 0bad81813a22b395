"""Whether anything of the losses follows from a value that Python read: the step is run again with another answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from dplit.grads.ownership.batch_owners import BatchOwners
from dplit.grads.ownership.blame import Place
from dplit.grads.ownership.ownership import Ownership
from dplit.grads.ownership.python_reads import SIZES, Read
from dplit.grads.ownership.random_state import RandomState, again
from dplit.grads.types import Batch, Losses

Alter = Callable[[Any], Any]

MOST_PLACES = 32
"""Most places that are tried; further ones are taken to matter."""


def without_effect(
    reads: Iterable[Read],
    module: nn.Module,
    losses: Losses,
    batch: Batch,
    examples: int,
    owners: BatchOwners,
    state: RandomState,
) -> set[Place]:
    """Return the places from whose values nothing of the losses follows.

    At each place in turn, what Python reads is replaced: a truth value by its opposite, a number by several others. The
    losses of both runs are compared by how they were computed, operation by operation, not by their values. A
    run that ends in an error computes no losses, so that nothing follows from it either; that is also said of a check that
    raises. Sizes cannot be replaced.

    Args:
        reads: what was read.
        module: the model.
        losses: computes the losses of a batch.
        batch: the batch.
        examples: n.
        owners: whose the numbers of a batch are.
        state: the random numbers that every run draws.
    """

    def key(place: Place | None = None, alter: Alter | None = None) -> int:
        answers = {} if place is None or alter is None else {place: alter}
        with again(state), Ownership(examples, answers) as ownership:
            owners.tell(ownership, batch)
            value = losses(batch, examples)
        return ownership.memory.key(value)

    reads = list(reads)
    sizes = {read.place for read in reads if read.operation in SIZES.values()}
    places = list(dict.fromkeys(read.place for read in reads if read.place not in sizes))[:MOST_PLACES]
    expected = key() if places else 0
    return {place for place in places if _changes_nothing(lambda alter, p=place: key(p, alter), expected)}  # type: ignore[misc]


def _changes_nothing(run: Callable[[Alter], int], expected: int) -> bool:
    for alter in ALTERATIONS:
        try:
            if run(alter) != expected:
                return False
        except Exception:  # the person's own check, or a value that makes no sense: the step ends there
            continue
    return True


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
