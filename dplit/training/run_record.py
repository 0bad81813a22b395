"""What a fit leaves behind: the ledger, its journal, and a statement of everything that was released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from dplit.files import next_free_path
from dplit.privacy import Journal, Ledger
from dplit.privacy.statement import Facts, write_statement


class Spent(NamedTuple):
    """What has been spent so far: ε is the certified upper bound."""

    epsilon: float
    delta: float
    by_group: dict[str, float] | None
    """ε of each declared group, or None where only the headline holds."""

    @classmethod
    def of(cls, ledger: Ledger, delta: float, groups: Sequence[str]) -> Self:
        """Read it off a ledger."""
        by_group = ledger.by_group(delta, groups)
        known = {name: bound.upper for name, bound in by_group.items() if bound is not None}
        return cls(ledger.epsilon(delta).upper, delta, known if len(known) == len(by_group) else None)


class RunRecord:
    """The ledger of one model, wherever it is trained, and the names of what left without charge.

    The journal is created in the run directory at the first fit. A resumed fit goes on in the journal it began with,
    so that two branches of one run are counted together.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        self.facts: Facts | None = None
        self.said: set[str] = set()
        """What was shown that depends on the training records, but is no figure; a line each."""
        self._from_training: set[str] = set()
        self._logged: set[str] = set()

    def open(self, folder: Path) -> None:
        """Open the journal, a new one in `folder` if there is none yet; never another run's."""
        journal = self.ledger.journal
        if journal is None:
            self.ledger = Ledger(Journal.create(next_free_path(folder / "ledger.jsonl"), self.ledger.run_id))
        elif journal.closed:
            self.ledger = Ledger.resume(self.ledger.state_dict(), journal.path)

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

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, or nothing before the first fit."""
        journal = self.ledger.journal
        if journal is None:
            return {}
        return {"ledger": self.ledger.state_dict(), "journal": str(journal.path.resolve())}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint with the journal it names; what the journal holds beyond it counts.

        Raises:
            JournalError: the journal is missing, damaged, in use or another run's.
        """
        self.close()
        self.ledger = Ledger.resume(state["ledger"], Path(state["journal"]))

    def logged_by_training(self, results: Any, keep: bool) -> None:
        """Note the names `training_step` logged to Lightning's results, or drop the figures themselves."""
        found = {} if results is None else {k: m for k, m in results.items() if m.meta.fx == "training_step"}
        if keep:
            self._from_training.update(metric.meta.name for metric in found.values())
        else:
            for key in found:
                del results[key]

    def state(self, folder: Path, trainer: Any) -> None:
        """Write `privacy.json` and `privacy.md`: the facts, the ledger, and what every callback released uncharged."""
        if self.facts is None:
            return
        self._logged |= set(trainer.callback_metrics)
        exact = self.said | {f"{name}: exact, logged by training_step" for name in self._from_training}
        others = {name for name in self._logged if not self._is_training(name)}
        for callback in trainer.callbacks:
            others -= getattr(callback, "logged_keys", set())
            exact.update(getattr(callback, "released_without_charge", list)())
        exact.update(f"{name}: exact, logged outside training_step" for name in others)
        write_statement(folder, self.ledger, self.facts.releasing(sorted(exact)))

    def _is_training(self, name: str) -> bool:
        return name.removesuffix("_step").removesuffix("_epoch") in self._from_training
