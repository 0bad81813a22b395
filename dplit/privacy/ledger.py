"""The ledger: everything that was released, and what it costs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from dplit import validation
from dplit.errors import ConfigurationError, JournalError
from dplit.privacy.accountants.base import Bound
from dplit.privacy.accountants.prv import epsilon
from dplit.privacy.events import Event
from dplit.privacy.journal import Contents, Journal, Record, load

FORMAT = 1


class Ledger:
    """What was released so far, counted before it is released.

    Args:
        journal: where every record is written first; the ledger starts with what it already holds. Without one the
            ledger lives in memory and in checkpoints only, and a killed run forgets what it did since its last one.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal
        self.run_id = journal.run_id if journal else uuid.uuid4().hex
        self._entries: dict[str, dict[Event, int]] = {}
        self._notes: list[str] = []
        if journal:
            self._apply(journal.contents)

    def record(self, event: Event, times: int = 1, split: str = "train") -> None:
        """Charge `event`, released `times` times from the records of `split`: journal first, then memory.

        Release only after this has returned.

        Raises:
            ConfigurationError: something that is no event, or `times` under 1.
            JournalError: the journal could not take it; nothing may be released.
        """
        self.begin(event, times, split)()

    def begin(self, event: Event, times: int = 1, split: str = "train") -> Callable[[], None]:
        """Charge as `record` does, and return what waits for the disk: call it before releasing anything.

        The gradient can be computed meanwhile, but no noise may be drawn for it.
        """
        if not isinstance(event, Event) or not isinstance(split, str):
            raise ConfigurationError(f"cannot record {event!r} on split {split!r}; record Gaussian or Sampled events")
        record = Record(event, validation.count("times", times), split)
        wait = self.journal.begin(record) if self.journal else lambda: None
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
    def steps(self) -> int:
        """How many records were made on the train split."""
        return sum(self._entries.get("train", {}).values())

    def epsilon(self, delta: float, group: str | None = None, split: str | None = None) -> Bound:
        """Return what was spent at `delta`, for add or remove one record.

        Args:
            delta: in (0, 1).
            group: compose the events' views of this group; where an event has none, all of it counts.
            split: only this split; otherwise the largest of all, since splits hold disjoint records.

        Raises:
            ConfigurationError: `delta` outside (0, 1).
        """
        chosen = self._entries.values() if split is None else [self._entries.get(split, {})]
        bounds = [epsilon(_viewed(events, group), delta) for events in [*chosen, {}]]
        return Bound(*(max(values) for values in zip(*bounds, strict=True)))

    def by_group(self, delta: float, groups: Iterable[str]) -> dict[str, Bound | None]:
        """Return each group's ε; None where some event states nothing for that group, so only the headline holds."""
        return {group: self.epsilon(delta, group=group) if self._states(group) else None for group in groups}

    def _states(self, group: str) -> bool:
        return all(event.states(group) for events in self._entries.values() for event in events)

    def state_dict(self) -> dict[str, Any]:
        """Return the ledger in JSON types, for a checkpoint; `resume` turns it back."""
        return {
            "format": FORMAT,
            "run_id": self.run_id,
            "entries": [
                {"event": event.to_dict(), "times": times, "split": split}
                for split, events in self._entries.items()
                for event, times in events.items()
            ],
            "notes": list(self._notes),
            "journal": self.journal.mark if self.journal else None,
        }

    @classmethod
    def resume(cls, state: Mapping[str, Any], journal_path: str | os.PathLike[str] | None) -> Ledger:
        """Go on from a checkpoint's state with its run's journal, which decides what was released.

        Records that the journal holds beyond the checkpoint were released and lost; they count. `journal_path` may
        be None only for a ledger that never had a journal.

        Raises:
            JournalError: a state that is no ledger; a journal that is missing, damaged, in use, of another run,
                behind the checkpoint, or with another history.
        """
        ledger = _from_state(cls(), state)
        if journal_path is None:
            if state["journal"] is not None:
                raise JournalError("this checkpoint's run kept a journal; pass its ledger.jsonl to resume")
            return ledger
        journal = Journal.reopen(journal_path)
        try:
            _continues(journal, ledger.run_id, state["journal"])
        except BaseException:
            journal.close()
            raise
        return cls(journal)

    def _add(self, record: Record) -> None:
        events = self._entries.setdefault(record.split, {})
        events[record.event] = events.get(record.event, 0) + record.times

    def _apply(self, contents: Contents) -> None:
        self.run_id = contents.run_id
        for entry in contents.entries:
            if isinstance(entry, Record):
                self._add(entry)
            elif entry not in self._notes:
                self._notes.append(entry)


def read(path: str | os.PathLike[str]) -> Ledger:
    """Return what a journal says, for inspection: without lock, and without writing to it.

    Raises:
        JournalError: the file is missing or damaged.
    """
    ledger = Ledger()
    ledger._apply(load(path))
    return ledger


def _viewed(events: Mapping[Event, int], group: str | None) -> list[tuple[Event, int]]:
    return [(event if group is None else event.view(group), times) for event, times in events.items()]


def _from_state(ledger: Ledger, state: Mapping[str, Any]) -> Ledger:
    try:
        if state["format"] != FORMAT:
            raise JournalError(f"the checkpoint's ledger has format {state['format']!r}, this dplit reads {FORMAT}")
        ledger.run_id = str(state["run_id"])
        for entry in state["entries"]:
            ledger.record(Event.from_dict(entry["event"]), entry["times"], entry["split"])
        ledger._notes = [str(note) for note in state["notes"]]
        state["journal"]
    except (KeyError, TypeError, AttributeError, ConfigurationError) as error:
        raise JournalError(f"the checkpoint holds no usable ledger ({error!r}); resume from another") from error
    return ledger


def _continues(journal: Journal, run_id: str, mark: Any) -> None:
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
