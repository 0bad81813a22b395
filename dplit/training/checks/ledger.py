"""Ledgers that a private fit must not go on with."""

from __future__ import annotations

from torch import nn

from dplit.clipping import ClippingPolicy
from dplit.errors import PrivacyError
from dplit.privacy import Ledger
from dplit.training.checks import spending


def check_ledger(module: nn.Module | None, policy: ClippingPolicy, ledger: Ledger, unit: str | None) -> None:
    """Refuse to go on with weights or thresholds under a ledger that does not know what was spent on them before.

    Weights and thresholds that pass are remembered as this ledger's.

    Raises:
        PrivacyError: they were trained under another ledger, or the ledger's steps were charged for another unit.
    """
    ledger.check_unit(unit)
    layers = [] if module is None else list(module.modules())
    parts = [] if module is None else [*layers, *module.parameters()]
    if not all(_counts(ledger, part) for part in parts):
        raise PrivacyError(
            "this model, or a part of it, was trained under another ledger, whose spending this one would not count; pass "
            "DPStrategy(ledger=first.ledger), or resume with ckpt_path"
        )
    if policy.queries and not _counts(ledger, policy):
        raise PrivacyError(
            f"this {type(policy).__name__} learnt its thresholds under another ledger, whose spending this one would not "
            "count; give each strategy a policy of its own, or pass DPStrategy(ledger=first.ledger)"
        )
    for layer in filter(_has_trainable, layers):
        spending.remember(layer, ledger.run_id)
    if policy.queries:
        vars(policy)[spending.MARK] = ledger.run_id


def _counts(ledger: Ledger, trained: object) -> bool:
    run = _run_of(trained)
    return run is None or spending.counts(ledger, run)


def _has_trainable(layer: nn.Module) -> bool:
    return any(p.requires_grad for p in layer.parameters(recurse=False))


def _run_of(trained: object) -> str | None:
    return spending.run_of(trained)
