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
        split: where the steps will be recorded. Other splits hold disjoint records, so they only need to stay within
            the target themselves.
        accountant: its name, class or instance; None for the ledger's, or for `PRV` where there is no ledger.

    Returns:
        The largest number of steps, 0 if there is no room for one, `MOST_STEPS` if there is room for that many.

    Raises:
        ConfigurationError: something that is no event, or no accountant.
    """
    entries = {} if ledger is None else ledger.entries
    chosen = find(ledger.accountant if accountant is None and ledger is not None else accountant)
    if not all(target.allows(events, chosen) for name, events in entries.items() if name != split):
        return 0
    earlier = tuple(entries.get(split, {}).items())

    def upper(steps: int) -> float:
        return chosen.epsilon([*earlier, (event, steps)], target.delta).upper

    def quick_upper(steps: int) -> float:
        return chosen.quick_epsilon([*earlier, (event, steps)], target.delta)

    return most_steps(upper, quick_upper, target.epsilon) if upper(0) <= target.epsilon else 0
