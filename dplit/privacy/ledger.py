"""The ledger: everything that was released, and what it costs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dplit import validation
from dplit.errors import ConfigurationError, JournalError, PrivacyError
from dplit.privacy.accountants import AccountantLike, Bound, find
from dplit.privacy.ahead import Ahead
from dplit.privacy.completeness import check_reaches
from dplit.privacy.events import Event
from dplit.privacy.head import Mark
from dplit.privacy.journal import Contents, Declared, Entry, Journal, Record, load
from dplit.privacy.splits import Pair, Splits, pairs_of

FORMAT = 1

LedgerState = Mapping[str, Any]
"""A ledger in JSON types, as a checkpoint holds it; nothing of it is trusted before it was checked."""


class Ledger:
    """What was released so far, counted before it is released.

    A ledger is one object for the whole life of a model: a journal is attached to it, is closed and opened again, and a
    checkpoint is restored into it. Whoever holds the ledger sees all that was charged. Before a record is written, the
    privacy statements on disk are brought to say at least as much (`ahead`).

    Args:
        journal: where every record is written first; the ledger starts with what it already holds. Without one the
            ledger lives in memory and in checkpoints only, and a killed run forgets what it did since its last one.
        accountant: what turns the records into an ε: its name, class or instance; None for `PRV`. It is no part of the
            records, so a journal may be read with any.
    """

    def __init__(self, journal: Journal | None = None, accountant: AccountantLike | None = None) -> None:
        self.accountant = find(accountant)
        self.journal: Journal | None = None
        self.run_id = uuid.uuid4().hex
        self.ahead = Ahead()
        """Keeps the privacy statements ahead of the journal."""
        self.splits = Splits()
        """Which splits may hold the same record."""
        self._entries: dict[str, dict[Event, int]] = {}
        self._units: dict[str, str | None] = {}
        self._notes: list[str] = []
        self._groups: tuple[str, ...] = ()
        self._read_from: tuple[Path, Mark] | None = None
        if journal is not None:
            self._continue_in(journal)

    def record(self, event: Event, times: int = 1, split: str = "train", unit: str | None = None) -> None:
        """Charge `event`, released `times` times from the records of `split`: journal first, then memory.

        Release only after this has returned.

        Args:
            event: what is released each time.
            times: how often, at least 1.
            split: which records it is computed from.
            unit: the key that says whose a record is, where the event is charged for a person; None for a record.

        Raises:
            ConfigurationError: something that is no event, or `times` under 1.
            PrivacyError: the split's events so far were charged for another unit.
            JournalError: the journal could not take it; nothing may be released.
        """
        self.begin(event, times, split, unit)()

    def begin(self, event: Event, times: int = 1, split: str = "train", unit: str | None = None) -> Callable[[], None]:
        """Charge as `record` does, and return what waits for the disk: call it before releasing anything.

        The gradient can be computed meanwhile, but no noise may be drawn for it.
        """
        if not isinstance(event, Event) or not isinstance(split, str):
            raise ConfigurationError(f"cannot record {event!r} on split {split!r}; record Gaussian or Sampled events")
        self.check_unit(unit, split)
        record = Record(event, validation.count("times", times), split, unit)
        self.ahead.reach(self, record)
        wait = self.journal.begin(record) if self.journal else _no_wait
        self._add(record)
        self.ahead.arrived()
        return wait

    def note(self, text: str) -> None:
        """Keep a remark that voids or qualifies the privacy statement, once; journal first, as `record` does."""
        if text not in self._notes:
            self._keep(text)

    def declare_groups(self, groups: Iterable[str]) -> None:
        """Keep the declared groups, so that whoever reads the journal can state the ε of each."""
        names = tuple(groups)
        if names != self._groups:
            self._keep(Declared("groups", names))

    def declare_disjoint(self, *splits: str) -> None:
        """Declare that no two of these splits share a record (or person); without names, that no two splits at all do.

        Until then two splits other than "train" are taken to hold the same records, and what was released from them is
        added up. A pair that was seen to share records is not believed to be disjoint.
        """
        names = splits or (Splits.ALL,)
        if not pairs_of(names) <= self.splits.disjoint:
            self._keep(Declared("disjoint", tuple(sorted(set(names)))))

    def declare_overlapping(self, one: str, other: str) -> None:
        """Keep that two splits were seen to share records: what was released from them is added up."""
        if frozenset((one, other)) not in self.splits.overlapping:
            self._keep(Declared("overlapping", tuple(sorted((one, other)))))

    def _keep(self, entry: Entry) -> None:
        """Add an entry that releases nothing: statements first, then the journal, then memory."""
        self.ahead.reach(self, entry)
        if self.journal:
            self.journal.write(entry)
        self._add(entry)
        self.ahead.arrived()

    @property
    def entries(self) -> Mapping[str, Mapping[Event, int]]:
        """How often each event was recorded, by split; read only."""
        return MappingProxyType({split: MappingProxyType(events) for split, events in self._entries.items()})

    @property
    def notes(self) -> tuple[str, ...]:
        """What voids or qualifies the privacy statement."""
        return tuple(self._notes)

    @property
    def groups(self) -> tuple[str, ...]:
        """The declared groups, or else those that an event states something of."""
        if self._groups:
            return self._groups
        views = (getattr(event, "groups", ()) for events in self._entries.values() for event in events)
        return tuple(dict.fromkeys(group for view in views for group in view))

    @property
    def units(self) -> Mapping[str, str | None]:
        """What the events of each split were charged for: the key that says whose a record is, or None for records."""
        return MappingProxyType(self._units)

    @property
    def steps(self) -> int:
        """How many records were made on the train split."""
        return sum(self._entries.get("train", {}).values())

    @property
    def unit(self) -> str | None:
        """The key that says whose a record is, where events were charged for persons; None for records."""
        return next((unit for unit in self._units.values() if unit is not None), None)

    def check_unit(self, unit: str | None, split: str = "train") -> None:
        """Refuse to add events charged for persons to events charged for records, and the other way around.

        Neither bounds the other: a person holds several records, and a record less changes a person's mean by up to twice
        the bound.

        Raises:
            PrivacyError: the events so far were charged for another unit.
        """
        charged = self._units.get(split, next(iter(self._units.values()), unit))
        if charged != unit:
            raise PrivacyError(
                f"the ledger's steps so far were taken with unit={charged!r}, so with unit={unit!r} no statement "
                "would hold for all of them; keep the unit, or train a new model"
            )

    def epsilon(self, delta: float, group: str | None = None, split: str | None = None) -> Bound:
        """Return what was spent at `delta`, for add or remove one record.

        Args:
            delta: in (0, 1).
            group: compose what the events reveal of this group's records; where an event does not state it, the whole
                event counts.
            split: only this split; otherwise the largest of all sets of splits that one record may be in, the releases of
                each set added up (`splits`).

        Raises:
            ConfigurationError: `delta` outside (0, 1).
        """
        chosen = self.splits.together(self._entries) if split is None else [(split,)]
        bounds = [
            self.accountant.epsilon(_of_group(self.released_from(names), group), delta) for names in [*chosen, ()]
        ]
        return Bound(*(max(values) for values in zip(*bounds, strict=True)))

    def released_from(self, splits: Iterable[str]) -> list[tuple[Event, int]]:
        """Return what was released from these splits, with how often."""
        return [pair for split in splits for pair in self._entries.get(split, {}).items()]

    def by_group(self, delta: float, groups: Iterable[str]) -> dict[str, Bound | None]:
        """Return each group's ε; None where some event states nothing for that group, so only the overall ε holds."""
        return {group: self.epsilon(delta, group=group) if self._has_group(group) else None for group in groups}

    def _has_group(self, group: str) -> bool:
        return all(event.has_group(group) for events in self._entries.values() for event in events)

    # -- journal and checkpoint --------------------------------------------------------------------------------------

    def copied(self) -> Ledger:
        """Return another ledger that holds the same; it can only go on in the same journal, where there is one."""
        copy = Ledger(accountant=self.accountant)
        copy.run_id = self.run_id
        for entry in self._content():
            copy._add(entry)
        if self.mark is not None and self.journal_path is not None:
            copy._read_from = self.journal_path, self.mark
        return copy

    def attach(self, journal: Journal) -> None:
        """Keep the ledger in a new journal from now on; what it holds already is written there first.

        Raises:
            JournalError: the ledger has a journal already, the journal has entries, is another run's or the run has one
                beside it, or it cannot be written.
        """
        if self.journal is not None or self._read_from is not None:
            raise JournalError(f"the ledger is kept in {self.journal_path} already; go on there")
        if journal.run_id != self.run_id or journal.contents.entries:
            raise JournalError(f"{journal.path} is not a new journal of run {self.run_id}; create one for this ledger")
        for entry in self._content():
            journal.write(entry)
        self.journal = journal

    @property
    def mark(self) -> Mark | None:
        """How far the journal reaches, as this ledger knows it; None without one."""
        if self.journal is not None:
            return Mark(self.run_id, int(self.journal.mark["entries"]), str(self.journal.mark["sum"]))
        return None if self._read_from is None else self._read_from[1]

    @property
    def journal_path(self) -> Path | None:
        """Where the journal lies, open or closed; of a ledger that was read, the file that it was read from."""
        if self.journal is not None:
            return self.journal.path
        return None if self._read_from is None else self._read_from[0]

    def reopen(self, path: str | os.PathLike[str] | None = None) -> None:
        """Open the ledger's closed journal again, or where `path` says that it lies now.

        What the journal holds beyond the ledger was released and counts.

        Raises:
            JournalError: there is no journal, or it is missing, damaged, in use, shorter than it was, or has another
                history.
        """
        mark, place = self.mark, path or self.journal_path
        if mark is None or place is None:
            raise JournalError("the ledger has no journal to open again; attach one")
        self._go_on(place, self.run_id, mark._asdict(), self._units)

    def restore(self, state: LedgerState, journal_path: str | os.PathLike[str] | None, unit: str | None = None) -> None:
        """Go on from a checkpoint's state with its run's journal, which decides what was released.

        Records that the journal holds beyond the checkpoint were released and lost; they count.

        Args:
            state: what `state_dict` returned.
            journal_path: may be None only for a ledger that never had a journal.
            unit: of all splits, for a state that says nothing of units, as version 0.1.0 wrote it.

        Raises:
            JournalError: the ledger holds something of another run; a state that is no ledger; a journal that is
                missing, damaged, in use, of another run, behind the checkpoint or its own head, or with another history.
        """
        saved = _from_state(state, unit)
        if self._entries and self.run_id != saved.run_id:
            raise JournalError(
                "the ledger holds releases of another run, which the checkpoint's would replace; resume with a new strategy"
            )
        if journal_path is None:
            if state["journal"] is not None:
                raise JournalError("this checkpoint's run kept a journal; pass its ledger.jsonl to resume")
            self.run_id = saved.run_id
            self._replace(saved._content())
        else:
            self._go_on(journal_path, saved.run_id, state["journal"], saved._units)
            if "units" not in state:
                self._declare_units()

    def _declare_units(self) -> None:
        """Let a journal of version 0.1.0, whose records do not say it, say whose they are."""
        assert self.journal is not None
        for split, unit in self._units.items():
            declared = None if unit is None else Declared("unit", (split, unit))
            if declared is not None and declared not in self.journal.contents.entries:
                self._keep(declared)

    def state_dict(self) -> dict[str, Any]:
        """Return the ledger in JSON types, for a checkpoint; `restore` turns it back."""
        return {
            "format": FORMAT,
            "run_id": self.run_id,
            "entries": [
                {"event": event.to_dict(), "times": times, "split": split}
                for split, events in self._entries.items()
                for event, times in events.items()
            ],
            "units": dict(self._units),
            "notes": list(self._notes),
            "declared": [[entry.what, list(entry.names)] for entry in self._declared()],
            "journal": None if self.mark is None else {"entries": self.mark.entries, "sum": self.mark.sum},
        }

    @classmethod
    def resume(
        cls,
        state: LedgerState,
        journal_path: str | os.PathLike[str] | None,
        accountant: AccountantLike | None = None,
    ) -> Ledger:
        """Return a new ledger that continues from a checkpoint's state, as `restore` does."""
        ledger = cls(accountant=accountant)
        ledger.restore(state, journal_path)
        return ledger

    def _go_on(self, path: str | os.PathLike[str], run_id: str, mark: object, units: Mapping[str, str | None]) -> None:
        """Open a journal that must continue where `mark` saw it, and count all that it holds."""
        journal = Journal.reopen(path)
        try:
            _check_continues(journal, run_id, mark)
            check_reaches(journal.path, journal.contents)
        except BaseException:
            journal.close()
            raise
        self._continue_in(journal)
        self._units |= {split: unit for split, unit in units.items() if unit is not None}

    def _continue_in(self, journal: Journal) -> None:
        self._apply(journal.contents)
        self.journal, self._read_from = journal, None

    def _apply(self, contents: Contents) -> None:
        self.run_id = contents.run_id
        self._replace(contents.entries)

    def _replace(self, entries: Iterable[Entry]) -> None:
        self._entries, self._notes, self._units, self._groups, self.splits = {}, [], {}, (), Splits()
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        if isinstance(entry, Record):
            events = self._entries.setdefault(entry.split, {})
            events[entry.event] = events.get(entry.event, 0) + entry.times
            self._units.setdefault(entry.split, entry.unit)
        elif isinstance(entry, Declared):
            self._add_declared(*entry)
        elif entry not in self._notes:
            self._notes.append(entry)

    def _add_declared(self, what: str, names: tuple[str, ...]) -> None:
        match what:
            case "groups":
                self._groups = names
            case "disjoint":
                self.splits.disjoint |= pairs_of(names)
            case "overlapping":
                self.splits.overlapping |= pairs_of(names)
            case "unit":
                self._units[names[0]] = names[1]

    def _declared(self) -> list[Declared]:
        """Return what was declared, units aside, which every record has."""

        def listed(what: str, pairs: Iterable[Pair]) -> list[Declared]:
            return [Declared(what, names) for names in sorted(tuple(sorted(pair)) for pair in pairs)]

        groups = [Declared("groups", self._groups)] if self._groups else []
        return [*groups, *listed("disjoint", self.splits.disjoint), *listed("overlapping", self.splits.overlapping)]

    def _content(self) -> list[Entry]:
        """Return entries that say all that the ledger holds."""
        records = [
            Record(event, times, split, self._units[split])
            for split, events in self._entries.items()
            for event, times in events.items()
        ]
        return [*self._declared(), *records, *self._notes]


def read(path: str | os.PathLike[str], accountant: AccountantLike | None = None) -> Ledger:
    """Return what a journal says, for inspection: without lock, and without writing to it.

    A strategy that is given the ledger goes on in that journal.

    Raises:
        ConfigurationError: an accountant that is not known.
        JournalError: the file is missing or damaged.
    """
    contents, ledger = load(path), Ledger(accountant=accountant)
    ledger._apply(contents)
    ledger._read_from = Path(path), Mark(contents.run_id, len(contents.entries), contents.sums[-1])
    return ledger


def joined(ledgers: Iterable[Ledger]) -> Ledger:
    """Return a ledger of all that several hold; splits are disjoint only where each that has them says so.

    Raises:
        PrivacyError: one was charged for persons, another for records.
    """
    given, whole = list(ledgers), Ledger()
    for ledger in given:
        for split, events in ledger.entries.items():
            for event, times in events.items():
                whole.record(event, times, split, ledger.units[split])
    for one, other in combinations(sorted(whole.entries), 2):
        with_both = [ledger.splits for ledger in given if {one, other} & set(ledger.entries)]
        if any(splits.may_share(one, other) for splits in with_both):
            whole.declare_overlapping(one, other)
        else:
            whole.declare_disjoint(one, other)
    return whole


def _no_wait() -> None:
    """There is no disk to wait for."""


def _of_group(events: Iterable[tuple[Event, int]], group: str | None) -> list[tuple[Event, int]]:
    return [(event if group is None else event.for_group(group), times) for event, times in events]


def _from_state(state: LedgerState, unit: str | None) -> Ledger:
    """Return what a checkpoint's state says, without a journal."""
    ledger = Ledger()
    try:
        if state["format"] != FORMAT:
            raise JournalError(f"the checkpoint's ledger has format {state['format']!r}, this dplit reads {FORMAT}")
        ledger.run_id = str(state["run_id"])
        units = state.get("units", {entry["split"]: unit for entry in state["entries"]})
        for entry in state["entries"]:
            split, times = entry["split"], validation.count("times", entry["times"])
            ledger._add(Record(Event.from_dict(entry["event"]), times, split, units.get(split)))
        ledger._units = {str(split): None if key is None else str(key) for split, key in units.items()}
        ledger._notes = [str(note) for note in state["notes"]]
        for what, names in state.get("declared", ()):
            ledger._add_declared(str(what), tuple(map(str, names)))
        state["journal"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise JournalError(f"the checkpoint holds no usable ledger ({error!r}); resume from another") from error
    return ledger


def _check_continues(journal: Journal, run_id: str, mark: Any) -> None:
    """Refuse a journal that is not the checkpoint's own, or that holds less than the checkpoint has seen."""
    sums = journal.contents.sums
    if journal.run_id != run_id:
        raise JournalError(
            f"{journal.path} is of run {journal.run_id}, the checkpoint of {run_id}; pass its own journal"
        )
    try:
        seen, total = validation.count("entries", mark["entries"], least=0), mark["sum"]
    except (KeyError, TypeError, ConfigurationError) as error:
        raise JournalError(f"the checkpoint says nothing of {journal.path}; resume from another checkpoint") from error
    if seen >= len(sums):
        raise JournalError(
            f"{journal.path} has {len(sums) - 1} entries, the checkpoint saw {seen}; restore the full journal"
        )
    if sums[seen] != total:
        raise JournalError(f"{journal.path} tells another history than the checkpoint; restore the run's own journal")
