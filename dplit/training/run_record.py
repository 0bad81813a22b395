"""What a fit leaves behind: the ledger, its journal, and a statement of everything that was released."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from lightning.pytorch import Trainer

from dplit.files import next_free_path
from dplit.privacy import Journal, Ledger
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

    def open(self, folder: Path) -> None:
        """Open the journal: a new one in `folder` if the ledger has none yet, never another run's.

        Raises:
            JournalError: the journal cannot be written, or is missing, damaged or in use.
        """
        journal = self.ledger.journal
        if journal is None:
            self.ledger.attach(Journal.create(next_free_path(folder / "ledger.jsonl"), self.ledger.run_id))
        elif journal.closed:
            self.ledger.reopen()

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Ledger]:
        """Yield the ledger with its journal open, and close it again if it was closed."""
        stays = self.ledger.journal is not None and not self.ledger.journal.closed
        self.open(folder)
        yield self.ledger
        if not stays:
            self.close()

    def close(self) -> None:
        """Close the journal; closing twice is harmless."""
        if self.ledger.journal is not None:
            self.ledger.journal.close()

    def restore(self, saved: SavedFit) -> None:
        """Go on from a checkpoint with the journal it names; what the journal holds beyond it counts.

        Raises:
            JournalError: the journal is missing, damaged, in use or another run's.
        """
        self.close()
        self.ledger.restore(saved.ledger, Path(saved.journal), saved.unit)

    # -- the statement -----------------------------------------------------------------------------------------------

    def describe(self, plan: FitPlan) -> None:
        """Say in the statement, from now on, what this fit is."""
        seed = plan.noise_source.seed
        if seed is not None:
            self.ledger.note(f"the noise seed was fixed ({seed}): whoever knows it can subtract the noise")
        self._facts = plan.facts(None if self.ledger.journal is None else self.ledger.journal.path)

    def note_python_reads(self, lines: Iterable[str]) -> None:
        """Note where Python decides by values of examples: lines like "model.py:31: `if loss.max() > 20`: declared harmless".

        No lines say that somebody looked and found nothing.
        """
        self._python_reads = (self._python_reads or {}) | dict.fromkeys(lines)

    def write_statement(self, folder: Path, trainer: Trainer) -> None:
        """Write `privacy.json` and `privacy.md`: the fit, the ledger, and what every callback released uncharged.

        Nothing is written before a fit was described.

        Raises:
            PrivacyError: what was released has no finite ε, or the files cannot be written.
        """
        if self._facts is not None:
            write_statement(folder, self.ledger, self._told(self._facts, trainer))

    def _told(self, facts: Facts, trainer: Trainer) -> Facts:
        """Return the facts of the fit with what was released, assumed and decided so far."""
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
