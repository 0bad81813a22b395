"""Ledgers and checkpoints that a private fit must not go on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from dplit.errors import ConfigurationError, JournalError, PrivacyError
from dplit.privacy import Ledger

_CHARGED: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Which ledger each module, and each policy that learns, was used under in this process."""


def check_ledger(module: nn.Module | None, policy: Any, ledger: Ledger, unit: str | None) -> None:
    """Refuse to go on with a model or thresholds under a ledger that does not know what was spent on them before.

    Or with a ledger whose steps were charged for another unit.
    """
    check_unit(ledger, unit)
    if module is not None and _CHARGED.setdefault(module, ledger.run_id) != ledger.run_id:
        raise PrivacyError(
            "this model was trained under another ledger, whose spending this one would not count; pass "
            "DPStrategy(ledger=first.ledger), or resume with ckpt_path"
        )
    if policy.queries and _CHARGED.setdefault(policy, ledger.run_id) != ledger.run_id:
        raise PrivacyError(
            f"this {type(policy).__name__} learnt its thresholds under another ledger, whose spending this one would not "
            "count; give each strategy a policy of its own, or pass DPStrategy(ledger=first.ledger)"
        )


_UNITS: dict[str, str | None] = {}
"""What the train steps of each ledger are charged for, by run: the key that says whose a record is, or None for records."""


def remember_unit(ledger: Ledger, unit: str | None) -> None:
    """Keep what a ledger's steps so far were charged for."""
    _UNITS.setdefault(ledger.run_id, unit)


def check_unit(ledger: Ledger, unit: str | None) -> None:
    """Refuse to add steps for persons to a ledger of steps for records, and the other way around.

    Neither bounds the other: a person holds several records, and a record less changes a person's mean by up to twice the
    bound.
    """
    remember_unit(ledger, None if ledger.entries.get("train") else unit)
    if _UNITS[ledger.run_id] != unit:
        raise PrivacyError(
            f"the ledger's steps so far were taken with unit={_UNITS[ledger.run_id]!r}, so with unit={unit!r} no statement "
            "would hold for all of them; keep the unit, or train a new model"
        )


def restorable(checkpoint: Mapping[str, Any], path: Any) -> Mapping[str, Any]:
    """Return what a checkpoint kept of its private fit.

    Raises:
        JournalError: it kept no ledger, or what it kept cannot be one.
    """
    kept = checkpoint.get("dplit")
    needed: dict[str, type] = {"ledger": Mapping, "journal": str, "policy_name": str, "policy": Mapping}
    whole = isinstance(kept, Mapping) and all(isinstance(kept.get(key), kind) for key, kind in needed.items())
    noise = kept.get("noise_multiplier") if isinstance(kept, Mapping) else None
    whole = whole and isinstance(kept.get("unit"), str | None)  # type: ignore[union-attr]
    if not whole or not isinstance(noise, int | float) or isinstance(noise, bool) or not 0 < noise < 1e7:
        raise JournalError(
            f"checkpoint {path} has no privacy ledger that can be read, so what it has spent is unknown; resume from a "
            "checkpoint written under DPStrategy, or load its weights into a new model"
        )
    return kept  # type: ignore[return-value]


def check_policy(saved: str, policy: Any) -> None:
    """Refuse to give one policy's thresholds to another."""
    if saved != type(policy).__name__:
        raise ConfigurationError(
            f"the checkpoint was trained with {saved}, not {type(policy).__name__}; resume with it"
        )
