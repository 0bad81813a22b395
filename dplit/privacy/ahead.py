"""Statements on disk that are never behind the journal: what is about to be recorded is stated first.

While training runs, a statement counts releases that are still to come: the planned ones, or else twice as many as were
made whenever they run out, so that it is written a few times and not at every step. Otherwise it is exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dplit.errors import PrivacyError
from dplit.privacy.events import Event
from dplit.privacy.journal import Entry, Record
from dplit.privacy.statement import refresh_statement, statement_path

if TYPE_CHECKING:
    from dplit.privacy.ledger import Ledger

Write = Callable[["Ledger", "Ledger | None"], object]
"""Writes a statement of the first ledger. The second is what was recorded so far, where the first holds more; None where
the figures are final."""


class Ahead:
    """The statements about one ledger, and how far they reach.

    Attributes:
        running: whether training runs, and statements may count what is still to come.
    """

    def __init__(self) -> None:
        self.running = False
        self._statements: dict[Path, Write] = {}
        self._stated: dict[tuple[str, Event], Record] = {}
        self._under_way: Entry | None = None
        self._looked_beside: Path | None = None
        self._written: set[Path] = set()

    def keep(self, folder: str | os.PathLike[str], write: Write) -> None:
        """From now on write the statement in `folder` by `write`, until the folder is moved away."""
        place = Path(folder).resolve()
        self._written.discard(place)
        self._statements[place] = write

    def plan(self, ledger: Ledger, record: Record) -> None:
        """State, before training begins, what it is planned to release: `record.times` more of one event.

        Where this has no finite ε, only what was released already is stated, and more as it comes.

        Raises:
            PrivacyError: a statement cannot be written, or what was released has no finite ε.
        """
        self.running = True
        self._stated = {}
        if record.times:
            with suppress(PrivacyError):
                self._state(ledger, record, record.times)
        if not self._stated:
            self._write(ledger, ledger.copied())

    def reach(self, ledger: Ledger, entry: Entry) -> None:
        """Bring the statements to count `entry`, which is about to be recorded.

        Raises:
            PrivacyError: one cannot be written, or would have no finite ε; nothing may be recorded or released then.
        """
        self._adopt(ledger)
        if not self._statements:
            pass
        elif not isinstance(entry, Record):
            self._write(ledger, self._planned(ledger, self._stated, entry))
        elif not self._counted(ledger, entry):
            self._extend(ledger, entry)
        self._under_way = entry

    def _adopt(self, ledger: Ledger) -> None:
        """Keep the statement of this run, too, that an earlier process left beside the journal."""
        if self._statements or ledger.journal is None or ledger.journal.path == self._looked_beside:
            return
        self._looked_beside = ledger.journal.path
        folder = self._looked_beside.parent
        if statement_path(folder, ledger.run_id) is not None:
            self.keep(folder, lambda planned, recorded: refresh_statement(folder, planned, recorded))

    def arrived(self) -> None:
        """Say that the entry was recorded."""
        self._under_way = None

    def settle(self, ledger: Ledger) -> None:
        """State exactly what the ledger holds: training has ended.

        An entry that was begun and not heard of again, because the disk was full, counts.

        Raises:
            PrivacyError: a statement cannot be written; what lies there still says no less than the journal.
        """
        self.running, self._stated = False, {}
        final = ledger.copied()
        if self._under_way is not None:
            final._add(self._under_way)
        self._write(ledger, final)

    def _counted(self, ledger: Ledger, record: Record) -> bool:
        stated = self._stated.get((record.split, record.event))
        return stated is not None and stated.times >= _made(ledger, record) + record.times

    def _extend(self, ledger: Ledger, record: Record) -> None:
        """State twice as many as there will be, or where that has no finite ε, only this one."""
        if self.running:
            with suppress(PrivacyError):
                return self._state(ledger, record, _made(ledger, record) + 2 * record.times)
        return self._state(ledger, record, record.times)

    def _state(self, ledger: Ledger, record: Record, times: int) -> None:
        """Write statements that count `times` more of a record's event."""
        whole = record._replace(times=_made(ledger, record) + times)
        stated = {**self._stated, (record.split, record.event): whole}
        self._write(ledger, self._planned(ledger, stated))
        self._stated = stated if self.running else {}

    def _planned(self, ledger: Ledger, stated: dict[tuple[str, Event], Record], entry: Entry | None = None) -> Ledger:
        planned = ledger.copied()
        if entry is not None:
            planned._add(entry)
        for record in stated.values():
            missing = record.times - _made(ledger, record)
            if missing > 0:
                planned._add(record._replace(times=missing))
        return planned

    def _write(self, ledger: Ledger, planned: Ledger) -> None:
        gone = {folder for folder in self._written if not folder.is_dir()}
        self._statements = {folder: write for folder, write in self._statements.items() if folder not in gone}
        for folder, write in self._statements.items():
            write(planned, ledger if self.running else None)
            self._written.add(folder)


def _made(ledger: Ledger, record: Record) -> int:
    return ledger.entries.get(record.split, {}).get(record.event, 0)
