"""Gaussians released jointly from one Poisson draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dplit import validation
from dplit.errors import ConfigurationError
from dplit.privacy.events.event import Event, fields_of, read_number, write_number
from dplit.privacy.events.gaussian import Gaussian, joint

_SLACK = 1e-12
"""A group's event may exceed the whole event by rounding, relative to it."""


class GroupEvents(Mapping[str, "Sampled"]):
    """A frozen, hashable mapping from group to what an event reveals of the group's records."""

    def __init__(self, events: Mapping[str, Sampled]) -> None:
        self._events = dict(events)

    def __getitem__(self, group: str) -> Sampled:
        return self._events[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def __hash__(self) -> int:
        return hash(frozenset(self._events.items()))

    def __repr__(self) -> str:
        return repr(self._events)


@dataclass(frozen=True, init=False)
class Sampled(Event, kind="sampled"):
    """Gaussians released jointly from one Poisson draw.

    A record enters the draw with probability `rate` and then moves release j by Δ_j; together they are one Gaussian
    of noise multiplier σ with 1/σ² = Σ_j 1/σ_j², so that queries on the draw are never charged as independent of it.

    Attributes:
        rate: inclusion probability, in (0, 1]; at 1 this is a plain Gaussian.
        releases: the Gaussians, kept as a tuple.
        groups: for a declared group, what the same draw reveals of its records: a `Sampled` without groups. The event
            itself must dominate it, being that of all records: no larger rate, no smaller joint noise multiplier.

    Raises:
        ConfigurationError: an empty or ill-typed list of releases, a rate outside (0, 1], a group's event that the
            event itself does not dominate.
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
        put(self, "groups", GroupEvents({group: self._dominated(group, own) for group, own in (groups or {}).items()}))

    def _dominated(self, group: str, event: Sampled) -> Sampled:
        """Return the event of one group if the event of all records dominates it."""
        if not isinstance(group, str) or not isinstance(event, Sampled) or event.groups:
            raise ConfigurationError(f"the event of group {group!r} must be a Sampled without groups, got {event!r}")
        if event.rate > self.rate * (1 + _SLACK) or event.noise_multiplier < self.noise_multiplier * (1 - _SLACK):
            raise ConfigurationError(
                f"group {group!r} (rate {event.rate:g}, noise multiplier {event.noise_multiplier:g}) would pay more than "
                f"all records (rate {self.rate:g}, {self.noise_multiplier:g}); charge all records as the costliest group"
            )
        return event

    def dominating(self) -> tuple[float, float]:
        """Return (rate, joint noise multiplier)."""
        return self.rate, self.noise_multiplier

    def for_group(self, group: str) -> Sampled:
        """Return the group's own event, or the whole event where there is none."""
        return self.groups.get(group, self)

    def has_group(self, group: str) -> bool:
        """Whether the group has an event of its own."""
        return group in self.groups

    def to_dict(self) -> dict[str, object]:
        """Return JSON types."""
        releases = [write_number(release.noise_multiplier) for release in self.releases]
        plain: dict[str, object] = {"kind": self.kind, "rate": self.rate, "releases": releases}
        by_group = {group: event.to_dict() for group, event in self.groups.items()}
        return {**plain, "groups": by_group} if by_group else plain

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Sampled:
        """Build the event from what `to_dict` wrote."""
        rate, noises, groups = fields_of({"groups": {}, **data}, "rate", "releases", "groups")
        if not isinstance(noises, Iterable) or not isinstance(groups, Mapping):
            raise TypeError("releases is a list, groups a mapping")
        by_group = {group: _sampled(event) for group, event in groups.items()}
        return cls(validation.rate("rate", rate), [Gaussian(read_number(noise)) for noise in noises], by_group)


def _sampled(data: object) -> Sampled:
    """Return what a journal holds of a group."""
    event = Event.from_dict(data)
    if not isinstance(event, Sampled):
        raise ConfigurationError(f"the event of a group must be a Sampled, got {event!r}")
    return event


def _releases(releases: Iterable[Gaussian]) -> tuple[Gaussian, ...]:
    gaussians = tuple(releases) if isinstance(releases, Iterable) else ()
    if not gaussians or not all(isinstance(release, Gaussian) for release in gaussians):
        raise ConfigurationError(f"releases={releases!r} must be a list of one or more Gaussian events")
    return gaussians
