"""What was released, as data: the unit of account of the ledger.

Every event is dominated by one Poisson-subsampled Gaussian, and that pair of numbers is all an accountant needs. A
new kind of event is one more subclass of `Event` here; ledger, journal and accountant pick it up by themselves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dplit import validation
from dplit.errors import ConfigurationError

_SLACK = 1e-12
"""A view may differ from the headline by rounding, relative to it."""


class Event(ABC):
    """One private release; frozen, hashable, and equal to any other with the same numbers."""

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls, kind: str, **options: Any) -> None:
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
        """Return what the event reveals of a record of `group`: its own view, or the whole event."""

    @abstractmethod
    def has_group(self, group: str) -> bool:
        """Whether `for_group(group)` is a statement about that group, not only the whole event."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return JSON types that `Event.from_dict` turns into an equal event."""

    @classmethod
    @abstractmethod
    def parse(cls, data: Mapping[str, Any]) -> Event:
        """Build the event from what its `to_dict` wrote."""

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Event:
        """Build any event from its `to_dict`.

        Raises:
            ConfigurationError: unknown kind, missing or surplus keys, or numbers that are no event.
        """
        kind = data.get("kind") if isinstance(data, Mapping) else None
        if kind not in Event.kinds:
            raise ConfigurationError(f"event {data!r} is of no known kind; known are {', '.join(Event.kinds)}")
        try:
            return Event.kinds[kind].parse({key: value for key, value in data.items() if key != "kind"})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"event {data!r} lacks a field or has one too many") from error


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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"kind": self.kind, "noise_multiplier": _write(self.noise_multiplier)}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Gaussian:
        """Build the event from what `to_dict` wrote."""
        return cls(**{key: _read(value) for key, value in data.items()})


class Views(Mapping[str, "Sampled"]):
    """A frozen, hashable mapping from group to `Sampled`."""

    def __init__(self, views: Mapping[str, Sampled]) -> None:
        self._views = dict(views)

    def __getitem__(self, group: str) -> Sampled:
        return self._views[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __hash__(self) -> int:
        return hash(frozenset(self._views.items()))

    def __repr__(self) -> str:
        return repr(self._views)


@dataclass(frozen=True, init=False)
class Sampled(Event, kind="sampled"):
    """Gaussians released jointly from one Poisson draw.

    A record enters the draw with probability `rate` and then moves release j by Δ_j; together they are one Gaussian
    of noise multiplier σ with 1/σ² = Σ_j 1/σ_j², so that queries on the draw are never charged as independent of it.

    Attributes:
        rate: inclusion probability, in (0, 1]; at 1 this is a plain Gaussian.
        releases: the Gaussians, kept as a tuple.
        groups: for a declared group, how the same draw touches its records: a `Sampled` without groups. The headline
            must dominate it: no larger rate, no smaller joint noise multiplier.

    Raises:
        ConfigurationError: an empty or ill-typed list of releases, a rate outside (0, 1], a view that the headline
            does not dominate.
    """

    rate: float
    releases: tuple[Gaussian, ...]
    groups: Mapping[str, Sampled]
    noise_multiplier: float = field(repr=False, compare=False)
    """Of all releases together, (Σ 1/σ_j²)^(-1/2); infinite if none is moved."""

    def __init__(self, rate: float, releases: Iterable[Gaussian], groups: Mapping[str, Sampled] | None = None) -> None:
        put = object.__setattr__
        put(self, "rate", validation.rate("rate", rate))
        put(self, "releases", _releases(releases))
        put(self, "noise_multiplier", joint(release.noise_multiplier for release in self.releases))
        put(self, "groups", Views({group: self._dominated(group, view) for group, view in (groups or {}).items()}))

    def _dominated(self, group: str, view: Sampled) -> Sampled:
        if not isinstance(group, str) or not isinstance(view, Sampled) or view.groups:
            raise ConfigurationError(f"the view of group {group!r} must be a Sampled without groups, got {view!r}")
        if view.rate > self.rate * (1 + _SLACK) or view.noise_multiplier < self.noise_multiplier * (1 - _SLACK):
            raise ConfigurationError(
                f"group {group!r} (rate {view.rate:g}, noise multiplier {view.noise_multiplier:g}) would pay more than "
                f"the headline (rate {self.rate:g}, {self.noise_multiplier:g}); charge the headline for the dearest group"
            )
        return view

    def dominating(self) -> tuple[float, float]:
        """Return (rate, joint noise multiplier)."""
        return self.rate, self.noise_multiplier

    def for_group(self, group: str) -> Sampled:
        """Return the group's own view, or the whole event where it has none."""
        return self.groups.get(group, self)

    def has_group(self, group: str) -> bool:
        """Whether the group has a view of its own."""
        return group in self.groups

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        plain = {"rate": self.rate, "releases": [_write(release.noise_multiplier) for release in self.releases]}
        views = {group: view.to_dict() for group, view in self.groups.items()}
        return {"kind": self.kind, **plain, **({"groups": views} if views else {})}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Sampled:
        """Build the event from what `to_dict` wrote."""
        fields = dict(data)
        releases = [Gaussian(_read(noise)) for noise in fields.pop("releases")]
        views = {group: Event.from_dict(view) for group, view in fields.pop("groups", {}).items()}
        return cls(releases=releases, groups=views, **fields)  # type: ignore[arg-type]


def joint(noise_multipliers: Iterable[float]) -> float:
    """Return the noise multiplier of Gaussians released together: (Σ 1/σ_j²)^(-1/2), infinite if all are."""
    noises = tuple(noise_multipliers)
    least = min(noises, default=math.inf)
    return least / math.sqrt(math.fsum((least / noise) ** 2 for noise in noises)) if least < math.inf else math.inf


def _releases(releases: Iterable[Gaussian]) -> tuple[Gaussian, ...]:
    found = tuple(releases) if isinstance(releases, Iterable) else ()
    if not found or not all(isinstance(release, Gaussian) for release in found):
        raise ConfigurationError(f"releases={releases!r} must be a list of one or more Gaussian events")
    return found


def _write(number: float) -> float | str:
    return "inf" if number == math.inf else number


def _read(number: Any) -> Any:
    return math.inf if number == "inf" else number
