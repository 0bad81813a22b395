"""The ledger: everything that was released, and what it costs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from dplit import validation
from dplit.errors import ConfigurationError, JournalError, PrivacyError
from dplit.privacy.accountants import AccountantLike, Bound, find
from dplit.privacy.events import Event
from dplit.privacy.journal import Contents, Journal, Record, load

FORMAT = 1

LedgerState = Mapping[str, Any]
"""A ledger in JSON types, as a checkpoint holds it; nothing of it is trusted before it was checked."""


class Ledger:
    """What was released so far, counted before it is released.

    A ledger is one object for the whole life of a model: a journal is attached to it, is closed and opened again, and a
    checkpoint is restored into it. Whoever holds the ledger sees all that was charged.

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
        self._entries: dict[str, dict[Event, int]] = {}
        self._units: dict[str, str | None] = {}
        self._notes: list[str] = []
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
        wait = self.journal.begin(record) if self.journal else _no_wait
        self._add(record)
        return wait

    def note(self, text: str) -> None:
        """Keep a remark that voids or qualifies the privacy statement, once; journal first, as `record` does."""
        if text not in self._notes:
            if self.journal:
                self.journal.note(text)
            self._notes.append(text)

    @property
    def entries(self) -> Mapping[str, Mapping[Event, int]]:
        """How often each event was recorded, by split; read only."""
        return MappingProxyType({split: MappingProxyType(events) for split, events in self._entries.items()})

    @property
    def notes(self) -> tuple[str, ...]:
        """What voids or qualifies the privacy statement."""
        return tuple(self._notes)

    @property
    def units(self) -> Mapping[str, str | None]:
        """What the events of each split were charged for: the key that says whose a record is, or None for records."""
        return MappingProxyType(self._units)

    @property
    def steps(self) -> int:
        """How many records were made on the train split."""
        return sum(self._entries.get("train", {}).values())

    def check_unit(self, unit: str | None, split: str = "train") -> None:
        """Refuse to add events charged for persons to events charged for records, and the other way around.

        Neither bounds the other: a person holds several records, and a record less changes a person's mean by up to twice
        the bound.

        Raises:
            PrivacyError: the split's events so far were charged for another unit.
        """
        if self._units.get(split, unit) != unit:
            raise PrivacyError(
                f"the ledger's steps so far were taken with unit={self._units[split]!r}, so with unit={unit!r} no statement "
                "would hold for all of them; keep the unit, or train a new model"
            )

    def epsilon(self, delta: float, group: str | None = None, split: str | None = None) -> Bound:
        """Return what was spent at `delta`, for add or remove one record.

        Args:
            delta: in (0, 1).
            group: compose what the events reveal of this group's records; where an event does not state it, the whole
                event counts.
            split: only this split; otherwise the largest of all, since splits hold disjoint records.

        Raises:
            ConfigurationError: `delta` outside (0, 1).
        """
        chosen = self._entries.values() if split is None else [self._entries.get(split, {})]
        bounds = [self.accountant.epsilon(_of_group(events, group), delta) for events in [*chosen, {}]]
        return Bound(*(max(values) for values in zip(*bounds, strict=True)))

    def by_group(self, delta: float, groups: Iterable[str]) -> dict[str, Bound | None]:
        """Return each group's ε; None where some event states nothing for that group, so only the overall ε holds."""
        return {group: self.epsilon(delta, group=group) if self._has_group(group) else None for group in groups}

    def _has_group(self, group: str) -> bool:
        return all(event.has_group(group) for events in self._entries.values() for event in events)

    # -- journal and checkpoint --------------------------------------------------------------------------------------

    def attach(self, journal: Journal) -> None:
        """Keep the ledger in a new journal from now on; what it holds already is written there first.

        Raises:
            JournalError: the ledger has a journal already, the journal has entries or is another run's, or it cannot be
                written.
        """
        if self.journal is not None:
            raise JournalError(f"the ledger is kept in {self.journal.path} already; go on there")
        if journal.run_id != self.run_id or journal.contents.entries:
            raise JournalError(f"{journal.path} is not a new journal of run {self.run_id}; create one for this ledger")
        for split, events in self._entries.items():
            for event, times in events.items():
                journal.append(Record(event, times, split, self._units[split]))
        for note in self._notes:
            journal.note(note)
        self.journal = journal

    def reopen(self) -> None:
        """Open the ledger's closed journal again; what it holds beyond the ledger was released and counts.

        Raises:
            JournalError: there is no journal, or it is missing, damaged, in use, shorter than it was, or has another
                history.
        """
        if self.journal is None:
            raise JournalError("the ledger has no journal to open again; attach one")
        self._go_on(self.journal.path, self.run_id, self.journal.mark, self._units)

    def restore(self, state: LedgerState, journal_path: str | os.PathLike[str] | None, unit: str | None = None) -> None:
        """Go on from a checkpoint's state with its run's journal, which decides what was released.

        Records that the journal holds beyond the checkpoint were released and lost; they count.

        Args:
            state: what `state_dict` returned.
            journal_path: may be None only for a ledger that never had a journal.
            unit: of the train split, for a state that says nothing of units, as version 0.1.0 wrote it.

        Raises:
            JournalError: the ledger holds something of another run; a state that is no ledger; a journal that is
                missing, damaged, in use, of another run, behind the checkpoint, or with another history.
        """
        saved = _from_state(state, unit)
        if self._entries and self.run_id != saved.run_id:
            raise JournalError(
                "the ledger holds releases of another run, which the checkpoint's would replace; resume with a new strategy"
            )
        if journal_path is None:
            if state["journal"] is not None:
                raise JournalError("this checkpoint's run kept a journal; pass its ledger.jsonl to resume")
            self.run_id, self._entries, self._notes = saved.run_id, saved._entries, saved._notes
            self._units = saved._units
        else:
            self._go_on(journal_path, saved.run_id, state["journal"], saved._units)

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
            "journal": self.journal.mark if self.journal else None,
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
        except BaseException:
            journal.close()
            raise
        self._units = dict(units)
        self._continue_in(journal)

    def _continue_in(self, journal: Journal) -> None:
        self._entries, self._notes = {}, []
        self._apply(journal.contents)
        self.journal = journal

    def _add(self, record: Record) -> None:
        events = self._entries.setdefault(record.split, {})
        events[record.event] = events.get(record.event, 0) + record.times
        self._units.setdefault(record.split, record.unit)

    def _apply(self, contents: Contents) -> None:
        self.run_id = contents.run_id
        for entry in contents.entries:
            if isinstance(entry, Record):
                self._add(entry)
            elif entry not in self._notes:
                self._notes.append(entry)


def read(path: str | os.PathLike[str], accountant: AccountantLike | None = None) -> Ledger:
    """Return what a journal says, for inspection: without lock, and without writing to it.

    Raises:
        ConfigurationError: an accountant that is not known.
        JournalError: the file is missing or damaged.
    """
    ledger = Ledger(accountant=accountant)
    ledger._apply(load(path))
    return ledger


def _no_wait() -> None:
    """There is no disk to wait for."""


def _of_group(events: Mapping[Event, int], group: str | None) -> list[tuple[Event, int]]:
    return [(event if group is None else event.for_group(group), times) for event, times in events.items()]


def _from_state(state: LedgerState, unit: str | None) -> Ledger:
    """Return what a checkpoint's state says, without a journal."""
    ledger = Ledger()
    try:
        if state["format"] != FORMAT:
            raise JournalError(f"the checkpoint's ledger has format {state['format']!r}, this dplit reads {FORMAT}")
        ledger.run_id = str(state["run_id"])
        units = state.get("units", {"train": unit})
        for entry in state["entries"]:
            split = entry["split"]
            ledger.record(Event.from_dict(entry["event"]), entry["times"], split, units.get(split))
        ledger._units = {str(split): None if key is None else str(key) for split, key in units.items()}
        ledger._notes = [str(note) for note in state["notes"]]
        state["journal"]
    except (KeyError, TypeError, AttributeError, ConfigurationError) as error:
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
