"""What a fit leaves behind: the ledger, its journal, and a statement of everything that was released."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection

from dplit.files import next_free_path
from dplit.privacy import Journal, Ledger
from dplit.privacy.statement import Facts, write_statement
from dplit.protocols import LogsFigures, ReleasesFigures, callbacks_of
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
        other_releases: what was shown that depends on the training records, but is no figure; a line each.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        self.other_releases: set[str] = set()
        self._facts: Facts | None = None
        self._logged_by_training: set[str] = set()
        self._logged: set[str] = set()

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

    def logged_by_training(self, results: _ResultCollection | None, keep: bool) -> None:
        """Note the names `training_step` logged to Lightning's results, or drop the figures themselves."""
        logged = {} if results is None else {k: m for k, m in results.items() if m.meta.fx == "training_step"}
        if keep:
            self._logged_by_training.update(metric.meta.name for metric in logged.values())
        elif results is not None:
            for key in logged:
                del results[key]

    def write_statement(self, folder: Path, trainer: Trainer) -> None:
        """Write `privacy.json` and `privacy.md`: the fit, the ledger, and what every callback released uncharged.

        Nothing is written before a fit was described.

        Raises:
            PrivacyError: what was released has no finite ε, or the files cannot be written.
        """
        if self._facts is None:
            return
        self._logged |= set(trainer.callback_metrics)
        exact = self.other_releases | {f"{name}: exact, logged by training_step" for name in self._logged_by_training}
        others = {name for name in self._logged if not self._is_training(name)}
        for callback in callbacks_of(trainer):
            if isinstance(callback, LogsFigures):
                others -= set(callback.logged_keys)
            if isinstance(callback, ReleasesFigures):
                exact.update(callback.released_without_charge())
        exact.update(f"{name}: exact, logged outside training_step" for name in others)
        write_statement(folder, self.ledger, self._facts.releasing(sorted(exact)))

    def _is_training(self, name: str) -> bool:
        return name.removesuffix("_step").removesuffix("_epoch") in self._logged_by_training
