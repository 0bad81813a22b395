"""From a privacy target to a noise multiplier, or to a number of steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dplit import validation
from dplit.privacy.accountants import AccountantLike, Composition, find
from dplit.privacy.accountants.search import most_steps
from dplit.privacy.events import Event

if TYPE_CHECKING:
    from dplit.privacy.ledger import Ledger


Pairs = list[tuple[Event, int]]
"""Events, and how often each was released."""


@dataclass(frozen=True)
class Target:
    """The (ε, δ) that training may spend, for add or remove one record.

    Raises:
        ConfigurationError: ε is not a finite number above 0, or δ not one between 0 and 1.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", validation.positive_finite("epsilon", self.epsilon))
        object.__setattr__(self, "delta", validation.delta(self.delta))

    def allows(self, composition: Composition, accountant: AccountantLike | None = None) -> bool:
        """Whether the certified ε of `composition` stays within the target, by this accountant (None: `PRV`)."""
        return find(accountant).epsilon(composition, self.delta).upper <= self.epsilon


def calibrate(
    target: Target,
    *,
    rate: float,
    steps: int,
    queries: Iterable[float] = (),
    spent: Iterable[tuple[Event, int]] = (),
    accountant: AccountantLike | None = None,
) -> float:
    """Return the least noise multiplier of the gradient with which `steps` steps stay within `target`.

    Args:
        target: never exceeded, in the certified upper bound.
        rate: inclusion probability of a record in a step, in (0, 1].
        steps: number of steps.
        queries: noise multipliers of what every step asks of the same draw. Jointly with the gradient's σ they are
            one release, 1/σ_eff² = 1/σ² + Σ_j 1/σ_j².
        spent: events charged to the same records besides the steps.
        accountant: its name, class or instance; None for `PRV`.

    Returns:
        σ, within about 0.1 % of the least one, in five significant digits; at least 0.02.

    Raises:
        ConfigurationError: arguments out of range, or a target that the queries and `spent` already pass.
    """
    return find(accountant).calibrate(target, rate=rate, steps=steps, queries=queries, spent=spent)


def steps_within(
    target: Target,
    event: Event,
    ledger: Ledger | None = None,
    split: str = "train",
    accountant: AccountantLike | None = None,
) -> int:
    """Return how many more times `event` can be recorded with the certified ε still within `target`.

    Args:
        target: not to be exceeded.
        event: one step.
        ledger: what was spent already; nothing if None.
        split: where the steps will be recorded. What was released from splits that may hold the same records counts with
            them (`Ledger.splits`); others only need to stay within the target themselves.
        accountant: its name, class or instance; None for the ledger's, or for `PRV` where there is no ledger.

    Returns:
        The largest number of steps, 0 if there is no room for one, `MOST_STEPS` if there is room for that many.

    Raises:
        ConfigurationError: something that is no event, or no accountant.
    """
    chosen = find(ledger.accountant if accountant is None and ledger is not None else accountant)
    with_split, without = _earlier(ledger, split)
    if not all(target.allows(events, chosen) for events in without):
        return 0

    def upper(steps: int) -> float:
        return max(chosen.epsilon([*earlier, (event, steps)], target.delta).upper for earlier in with_split)

    def quick_upper(steps: int) -> float:
        return max(chosen.quick_epsilon([*earlier, (event, steps)], target.delta) for earlier in with_split)

    return most_steps(upper, quick_upper, target.epsilon) if upper(0) <= target.epsilon else 0


def _earlier(ledger: Ledger | None, split: str) -> tuple[list[Pairs], list[Pairs]]:
    """Return what was released from each set of splits that a record may be in: sets with `split`, and those without."""
    if ledger is None:
        return [[]], []
    sets = ledger.splits.together({*ledger.entries, split})
    of = {names: ledger.released_from(names) for names in sets}
    return [of[names] for names in sets if split in names], [of[names] for names in sets if split not in names]
