"""What a fit leaves behind: the ledger, its journal, and a statement of everything that was released."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from lightning.pytorch import Trainer

from dplit.errors import JournalError, PrivacyError
from dplit.files import next_free_path
from dplit.privacy import Journal, Ledger, Record
from dplit.privacy.journal import run_of
from dplit.privacy.statement import Facts, write_statement
from dplit.protocols import ReleasesFigures, callbacks_of
from dplit.training.outlets.figures import Figures
from dplit.training.saved_fit import SavedFit
from dplit.training.setup import FitPlan


class Spent(NamedTuple):
    """What has been spent so far: ε is the certified upper bound."""

    epsilon: float
    delta: float
    by_group: dict[str, float] | None
    """ε of each declared group, or None where only the overall ε holds."""

    @classmethod
    def of(cls, ledger: Ledger, delta: float, groups: Sequence[str]) -> Self:
        """Read it off a ledger."""
        by_group = ledger.by_group(delta, groups)
        known = {name: bound.upper for name, bound in by_group.items() if bound is not None}
        return cls(ledger.epsilon(delta).upper, delta, known if len(known) == len(by_group) else None)


class RunRecord:
    """The ledger of one model, wherever it is trained, and the names of what left without charge.

    The ledger stays one object. Its journal is created in the run directory at the first fit; a resumed fit goes on in
    the journal it began with, so that two branches of one run are counted together.

    Attributes:
        ledger: everything charged so far.
        figures: what the run's hooks may log, and what they did.
        other_releases: what was shown that depends on the training records, but is no figure; a line each.
        assumptions: what was taken for granted in this run, beside what every statement assumes; a line each.
    """

    def __init__(self, ledger: Ledger | None = None, figures: Figures | None = None) -> None:
        self.ledger = ledger or Ledger()
        self.figures = figures or Figures()
        self.other_releases: set[str] = set()
        self.assumptions: set[str] = set()
        self._python_reads: dict[str, None] | None = None
        self._facts: Facts | None = None
        self._last_told: Facts | None = None
        self._trainer: weakref.ref[Trainer] | None = None

    def open(self, folder: Path) -> None:
        """Open the journal: a new one in `folder` if the ledger has none yet, never another run's.

        Raises:
            JournalError: the journal cannot be written, or is missing, damaged or in use.
        """
        ledger = self.ledger
        if ledger.journal_path is None:
            ledger.attach(Journal.create(self._new_journal(folder), ledger.run_id))
        elif ledger.journal is None or ledger.journal.closed:
            ledger.reopen(self._journal_in(folder))

    def _new_journal(self, folder: Path) -> Path:
        if self._journals_in(folder):
            raise JournalError(
                f"{self._journals_in(folder)[0]} is a journal of this run, {self.ledger.run_id}, and a second one would not be "
                "counted with it; go on there, with DPStrategy(ledger=dplit.privacy.read(...)), or choose another folder"
            )
        return next_free_path(folder / "ledger.jsonl")

    def _journal_in(self, folder: Path) -> Path | None:
        """Return where the journal was moved, if it is no longer where it was, and the folder has it."""
        path = self.ledger.journal_path
        if path is None or path.exists():
            return path
        return next(iter(self._journals_in(folder)), path)

    def _journals_in(self, folder: Path) -> list[Path]:
        return [path for path in sorted(folder.glob("ledger*.jsonl")) if run_of(path) == self.ledger.run_id]

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Ledger]:
        """Yield the ledger with its journal open, and close it again if it was closed."""
        stays = self.ledger.journal is not None and not self.ledger.journal.closed
        self.open(folder)
        try:
            yield self.ledger
        finally:
            if not stays:
                self.close()

    def close(self) -> None:
        """Close the journal; closing twice is harmless."""
        if self.ledger.journal is not None:
            self.ledger.journal.close()

    def restore(self, saved: SavedFit, checkpoint: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint with its run's journal, where it was or where it was moved with the checkpoint.

        What the journal holds beyond the checkpoint counts.

        Raises:
            JournalError: the journal is missing, damaged, in use or another run's, or there are two that differ.
        """
        self.close()
        self.ledger.restore(saved.ledger, saved.find_journal(checkpoint), saved.unit)

    # -- the statement -----------------------------------------------------------------------------------------------

    def describe(self, plan: FitPlan) -> None:
        """Say in the statement, from now on, what this fit is."""
        seed = plan.noise_source.seed
        if seed is not None:
            self.ledger.note(f"the noise seed was fixed ({seed}): whoever knows it can subtract the noise")
        self.ledger.declare_groups(plan.policy.groups)
        self._facts = plan.facts(self.ledger.journal_path)

    def begin(self, folder: Path, trainer: Trainer, planned: Record) -> None:
        """State, before the first release, what the fit is planned to release; and keep the statement ahead from now on.

        Raises:
            PrivacyError: what was released has no finite ε, or the files cannot be written.
        """
        self._keep_statements(folder, trainer)
        self.ledger.ahead.plan(self.ledger, planned)

    def finish(self, folder: Path, trainer: Trainer) -> None:
        """State exactly what was released, and close the journal.

        Raises:
            PrivacyError: as `write_statement` does, unless another error is on its way, which is the one to see; the
                statement that was written ahead stays.
        """
        failed = sys.exception()
        try:
            self.write_statement(folder, trainer)
        except PrivacyError as error:
            if failed is None:
                raise
            failed.add_note(str(error))
        finally:
            self.close()

    def note_python_reads(self, lines: Iterable[str]) -> None:
        """Note where Python decides by values of examples: lines like "model.py:31: `if loss.max() > 20`: declared harmless".

        No lines say that somebody looked and found nothing.
        """
        self._python_reads = (self._python_reads or {}) | dict.fromkeys(lines)

    def write_statement(self, folder: Path, trainer: Trainer) -> None:
        """Write `privacy.json` and `privacy.md`: the fit, the ledger, and what every callback released uncharged.

        They are written into `folder` and beside the journal. Nothing is written before a fit was described.

        Raises:
            PrivacyError: what was released has no finite ε, or the files cannot be written.
        """
        if self._facts is not None:
            self._keep_statements(folder, trainer)
            self.ledger.ahead.settle(self.ledger)

    def _keep_statements(self, folder: Path, trainer: Trainer) -> None:
        """Keep a statement in `folder`, and one beside the journal, which may be another run folder's."""
        self._trainer = weakref.ref(trainer)
        journal = self.ledger.journal_path
        for place in (folder, *([] if journal is None else [journal.parent])):
            self._keep_statement(place)

    def _keep_statement(self, place: Path) -> None:
        def write(ledger: Ledger, recorded: Ledger | None) -> None:
            assert self._facts is not None
            write_statement(place, ledger, self._told(self._facts), recorded)

        self.ledger.ahead.keep(place, write)

    def _told(self, facts: Facts) -> Facts:
        """Return the facts of the fit with what was released, assumed and decided so far, or by the time the trainer was gone."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is not None or self._last_told is None:
            self._last_told = facts if trainer is None else self._told_by(facts, trainer)
        return self._last_told

    def _told_by(self, facts: Facts, trainer: Trainer) -> Facts:
        figures = self.figures
        released = self.other_releases | figures.released(trainer)
        for callback in callbacks_of(trainer):
            if isinstance(callback, ReleasesFigures):
                released.update(callback.released_without_charge())
        return replace(
            facts.releasing(sorted(released)),
            exact_figures=figures.exact_by_split(trainer),
            assumptions=(*sorted(self.assumptions), *figures.public(trainer)),
            python_reads=None if self._python_reads is None else tuple(self._python_reads),
            steered_by=tuple(figures.steering(trainer)),
        )
