"""What a checkpoint keeps of a private fit beside the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from dplit.clipping import ClippingPolicy
from dplit.errors import ConfigurationError, JournalError

KEY = "dplit"
"""Where a checkpoint keeps it."""


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
    """

    ledger: Mapping[str, Any]
    journal: str
    policy_name: str
    policy: Mapping[str, Any]
    noise_multiplier: float
    unit: str | None = None

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
        and isinstance(noise, int | float)
        and not isinstance(noise, bool)
        and 0 < noise < 1e7
    )
