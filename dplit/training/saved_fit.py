"""What a checkpoint keeps of a private fit beside the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from dplit.clipping import ClippingPolicy
from dplit.errors import ConfigurationError, JournalError
from dplit.privacy.journal import load, run_of

KEY = "dplit"
"""Where a checkpoint keeps it."""
NEAR = 2
"""Folders above a checkpoint's own in which its journal is looked for; a run keeps checkpoints one folder down."""


@dataclass(frozen=True)
class SavedFit:
    """The private part of a checkpoint, in plain values.

    Args:
        ledger: the state of the ledger.
        journal: path of the ledger's journal.
        policy_name: class of the clipping policy.
        policy: state of the clipping policy.
        noise_multiplier: σ that the fit was solved for.
        unit: the key that says whose a record is, or None for records.
        beside: path of the journal from the checkpoint's folder, which holds where both were moved; "" if unknown.
    """

    ledger: Mapping[str, Any]
    journal: str
    policy_name: str
    policy: Mapping[str, Any]
    noise_multiplier: float
    unit: str | None = None
    beside: str = ""

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> Self:
        """Return what a checkpoint kept of its private fit; `path` is for the message.

        Raises:
            JournalError: it kept no ledger, or what it kept cannot be one.
        """
        kept = checkpoint.get(KEY)
        if not isinstance(kept, Mapping) or not _is_whole(kept):
            raise JournalError(
                f"checkpoint {path} has no privacy ledger that can be read, so what it has spent is unknown; resume from a "
                "checkpoint written under DPStrategy, or load its weights into a new model"
            )
        return cls(**{name: value for name, value in kept.items() if name in cls.__dataclass_fields__})

    def write(self, checkpoint: dict[str, Any]) -> None:
        """Put it into a checkpoint."""
        checkpoint[KEY] = asdict(self)

    def find_journal(self, checkpoint: str | os.PathLike[str]) -> Path:
        """Return where the run's journal lies: where it was, or beside the checkpoint, from which it may have been moved.

        Of several copies, that with the most entries.

        Args:
            checkpoint: where the checkpoint was read from.

        Raises:
            JournalError: copies tell different histories, so that neither counts all that was spent; or one is damaged.
        """
        run = self.ledger.get("run_id")
        found = {
            path.resolve(): path for path in self._places(Path(checkpoint).resolve().parent) if run_of(path) == run
        }
        if len(found) < 2:
            return next(iter(found.values()), Path(self.journal))
        held = {path: load(path).sums for path in found.values()}
        longest = max(held, key=lambda path: len(held[path]))
        for path, sums in held.items():
            if held[longest][len(sums) - 1] != sums[-1]:
                raise JournalError(
                    f"{path} and {longest} are of one run and tell different histories, so neither counts all that was "
                    "spent; keep the one that the checkpoint was written with, and move the other away"
                )
        return longest

    def _places(self, folder: Path) -> list[Path]:
        """Return the files that may be the journal, first where it was."""
        near = [place / Path(self.journal).name for place in (folder, *folder.parents[:NEAR])]
        numbered = [path for place in (folder, *folder.parents[:NEAR]) for path in sorted(place.glob("ledger*.jsonl"))]
        moved = [folder / self.beside] if self.beside else []
        return [path for path in (Path(self.journal), *moved, *near, *numbered) if path.is_file()]

    def restore_policy(self, policy: ClippingPolicy) -> None:
        """Give the saved thresholds back to a policy.

        Raises:
            ConfigurationError: the policy is of another class, or the thresholds are none.
        """
        if self.policy_name != type(policy).__name__:
            raise ConfigurationError(
                f"the checkpoint was trained with {self.policy_name}, not {type(policy).__name__}; resume with it"
            )
        policy.load_state_dict(self.policy)


def _is_whole(kept: Mapping[str, Any]) -> bool:
    needed: dict[str, type] = {"ledger": Mapping, "journal": str, "policy_name": str, "policy": Mapping}
    noise = kept.get("noise_multiplier")
    return (
        all(isinstance(kept.get(key), kind) for key, kind in needed.items())
        and isinstance(kept.get("unit"), str | None)
        and isinstance(kept.get("beside", ""), str)
        and isinstance(noise, int | float)
        and not isinstance(noise, bool)
        and 0 < noise < 1e7
    )


def path_from(checkpoint: str | os.PathLike[str], journal: Path) -> str:
    """Return the path of a journal from a checkpoint's folder; "" where there is none, as between drives."""
    try:
        return os.path.relpath(journal.resolve(), Path(checkpoint).resolve().parent)
    except ValueError:
        return ""
