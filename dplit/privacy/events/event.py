"""What every event is: the unit of account of the ledger."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from dplit import validation
from dplit.errors import ConfigurationError


class Event(ABC):
    """One private release; frozen, hashable, and equal to any other with the same numbers."""

    kind: ClassVar[str]
    """The name of the class in journals."""
    kinds: ClassVar[dict[str, type[Event]]] = {}
    """Every subclass by its `kind`."""

    def __init_subclass__(cls, kind: str, **options: object) -> None:
        """Register the class under `kind`, the name it has in journals."""
        super().__init_subclass__(**options)
        cls.kind = kind
        Event.kinds[kind] = cls

    @abstractmethod
    def dominating(self) -> tuple[float, float]:
        """Return (rate, noise multiplier) of a subsampled Gaussian that is at least as revealing.

        Records are included by Poisson sampling at `rate` in (0, 1]; the noise multiplier is standard deviation
        divided by L2 sensitivity, under add or remove one record, and infinite where nothing is revealed.
        """

    @abstractmethod
    def for_group(self, group: str) -> Event:
        """Return what the event reveals of a record of `group`; the whole event where it does not state that."""

    @abstractmethod
    def has_group(self, group: str) -> bool:
        """Whether `for_group(group)` is a statement about that group, not only the whole event."""

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """Return JSON types that `Event.from_dict` turns into an equal event."""

    @classmethod
    @abstractmethod
    def parse(cls, data: Mapping[str, object]) -> Event:
        """Build the event from what its `to_dict` wrote, without the kind."""

    @staticmethod
    def from_dict(data: object) -> Event:
        """Build any event from its `to_dict`.

        Raises:
            ConfigurationError: unknown kind, missing or surplus keys, or numbers that are no event.
        """
        kind = data.get("kind") if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping) or kind not in Event.kinds:
            raise ConfigurationError(f"event {data!r} is of no known kind; known are {', '.join(Event.kinds)}")
        try:
            return Event.kinds[kind].parse({key: value for key, value in data.items() if key != "kind"})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"event {data!r} lacks a field or has one too many") from error


def fields_of(data: Mapping[str, object], *names: str) -> list[object]:
    """Return the values of exactly these keys.

    Raises:
        KeyError: one is missing, or there is another.
    """
    if surplus := set(data) - set(names):
        raise KeyError(*surplus)
    return [data[name] for name in names]


def write_number(number: float) -> float | str:
    """Return a number as JSON can hold it."""
    return "inf" if number == math.inf else number


def read_number(number: object) -> float:
    """Return the number that `_write` wrote."""
    return math.inf if number == "inf" else validation.real("noise_multiplier", number)
