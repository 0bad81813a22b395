"""Which batch size, steps and noise suit a number of records and a privacy target, before any model is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from dplit import validation
from dplit.errors import ConfigurationError
from dplit.privacy.accountants import Accountant, AccountantLike, find
from dplit.privacy.calibration import Target, calibrate

CLOSE = 0.1
"""A batch is large enough once its effective noise is within this share of the least at the same number of steps."""
LEAST_STEPS = 150
"""Steps an advised plan has if it can: a little under the 200 in which Li et al. 2022 fine-tuned RoBERTa on SST-2."""
EPOCHS = (3, 10, 30)
SMALLEST_RATE = 1 / 256
"""Batches that hold a smaller share of the records are left out: they cost the most to account for and are the noisiest."""

LEARNING_RATE = (
    "no formula gives the learning rate: tune it together with the batch size, on public data where there is any",
    "at a fixed number of epochs large batches did best with large learning rates (Li et al. 2022, arXiv:2110.05679);",
    "  they used AdamW, bound 0.1: RoBERTa on SST-2 batch 1000, 5e-4; GPT-2 on E2E batch 1024, 2e-3",
)
"""What is published on the learning rate, and no more."""


class Plan(NamedTuple):
    """One way to spend the target."""

    epochs: int
    """Passes over the data: the computing that is paid for."""
    batch_size: int
    """B, the expected size of a draw."""
    rate: float
    """q = B/N."""
    steps: int
    """T = epochs · ⌈N/B⌉, as a DataLoader of this batch size gives them."""
    noise_multiplier: float
    """σ, calibrated to the target."""
    excess: float
    """Effective noise over the least that is possible in T steps (on all records, without queries), minus 1."""

    @property
    def effective_noise(self) -> float:
        """σ/B: standard deviation of the noise in the mean gradient, in units of the clipping bound."""
        return self.noise_multiplier / self.batch_size


class Advice(NamedTuple):
    """All plans, the best of each number of epochs, and the one to start with."""

    plans: tuple[Plan, ...]
    best: tuple[Plan, ...]
    advised: Plan
    reason: str


def advise(
    records: int,
    target: Target,
    *,
    epochs: Sequence[int] = EPOCHS,
    batch_sizes: Sequence[int] | None = None,
    queries: Iterable[float] = (),
    least_steps: int = LEAST_STEPS,
    accountant: AccountantLike | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Advice:
    """Return plans that stay within `target`, and which of them to start with.

    At a fixed ε and number of steps the effective noise σ/B falls as batches grow, until the noise is so large (σ of
    about 2) that only the total counts; then it is flat, and the least is that of steps on all N records. For each
    number of epochs the best plan is the smallest batch within `CLOSE` of that least. A batch that large may leave too
    few steps to learn in: then the best is the largest batch that leaves `least_steps`. Advised is the best of the
    fewest epochs that come within `CLOSE`, or of the most epochs. Plans that cannot reach the target are left out.

    Args:
        records: N.
        target: (ε, δ), never exceeded.
        epochs: passes over the data to compare.
        batch_sizes: expected batch sizes to compare; None for powers of two from N/256 to N.
        queries: noise multipliers of what every step asks of the same draw, as in `calibrate`.
        least_steps: steps below which a larger batch is no gain.
        accountant: its name, class or instance; None for `PRV`.
        progress: told how many plans of how many are calibrated; each takes up to some seconds.

    Raises:
        ConfigurationError: a count that is not above 0, a batch size above N, or a target that cannot be reached.

    Source: Li et al. 2022, arXiv:2110.05679, for σ/B at fixed steps; Sander et al. 2022, arXiv:2210.03403, and Räisä et
    al. 2024, arXiv:2402.03990, for where it is flat.
    """
    records, least_steps = validation.count("records", records), validation.count("least_steps", least_steps)
    sizes = _powers_of_two(records) if batch_sizes is None else _checked_sizes(batch_sizes, records)
    passes = sorted({validation.count("epochs", number) for number in epochs})
    if not passes:
        raise ConfigurationError("epochs=() leaves nothing to compare; give at least one number of epochs")
    pairs = [(number, size) for number in passes for size in sizes]
    plans = _plans(records, target, pairs, tuple(queries), find(accountant), progress)
    best = tuple(_best(list(same), least_steps) for _, same in groupby(plans, key=lambda plan: plan.epochs))
    close = [plan for plan in best if plan.excess <= CLOSE]
    advised = close[0] if close else best[-1]
    return Advice(tuple(plans), best, advised, _reason(advised, plans, least_steps))


def _powers_of_two(records: int) -> list[int]:
    """Return the powers of two between N/256 and N, and N."""
    first = max(0, math.floor(math.log2(records * SMALLEST_RATE)))
    return [*(2**power for power in range(first, (records - 1).bit_length())), records]


def _checked_sizes(sizes: Sequence[int], records: int) -> list[int]:
    checked = sorted({validation.count("batch_size", size) for size in sizes})
    if not checked or checked[-1] > records:
        given = checked[-1] if checked else "()"
        raise ConfigurationError(f"batch_size={given} must lie between 1 and the {records} records")
    return checked


def _plans(
    records: int,
    target: Target,
    pairs: Sequence[tuple[int, int]],
    queries: tuple[float, ...],
    accountant: Accountant,
    progress: Callable[[int, int], None],
) -> list[Plan]:
    """Return the plans that can reach the target: queries on large batches may spend more than that by themselves."""
    plans, refusal = [], None
    for done, (epochs, size) in enumerate(pairs):
        progress(done, len(pairs))
        try:
            plans.append(_plan(records, target, size, epochs, queries, accountant))
        except ConfigurationError as error:
            refusal = error
    if refusal is not None and not plans:
        raise refusal
    return plans


def _plan(
    records: int, target: Target, size: int, epochs: int, queries: tuple[float, ...], accountant: Accountant
) -> Plan:
    steps, rate = epochs * math.ceil(records / size), size / records
    noise = calibrate(target, rate=rate, steps=steps, queries=queries, accountant=accountant)
    least = calibrate(target, rate=1.0, steps=steps, accountant=accountant)
    return Plan(epochs, size, rate, steps, noise, max(0.0, noise / size * records / least - 1))


def _best(plans: Sequence[Plan], least_steps: int) -> Plan:
    """Choose among plans of the same number of epochs, in order of batch size."""
    long_enough = [plan for plan in plans if plan.steps >= least_steps]
    close = [plan for plan in long_enough if plan.excess <= CLOSE]
    return (close or long_enough[-1:] or plans)[0]


def _reason(plan: Plan, plans: Sequence[Plan], least_steps: int) -> str:
    if plan.steps < least_steps:
        return (
            f"no batch leaves {least_steps} steps in {plan.epochs} epochs, this one leaves the most; take more epochs"
        )
    if plan.excess <= CLOSE:
        near = f"within {CLOSE:.0%} of the least possible in {plan.steps} steps"
        return f"the smallest batch compared whose effective noise is {near}"
    over = f"effective noise {plan.excess:.0%} above the least possible in {plan.steps} steps"
    if plan == [other for other in plans if other.epochs == plan.epochs][-1]:
        return f"the largest batch compared; {over}: a larger one, or more epochs, would lower it"
    return (
        f"the largest batch that leaves {least_steps} steps in {plan.epochs} epochs; {over}: more epochs would lower it"
    )
