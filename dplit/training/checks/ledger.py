"""Ledgers that a private fit must not go on with."""

from __future__ import annotations

from torch import nn

from dplit.clipping import ClippingPolicy
from dplit.errors import PrivacyError
from dplit.privacy import Ledger

MARK = "_dplit_run_id"
"""Name of the attribute that says under which run the weights of a module, or the thresholds of a policy, were trained.

It travels with what it speaks of: a copy of a trained layer has it, and so has a layer in another LightningModule.
"""


def check_ledger(module: nn.Module | None, policy: ClippingPolicy, ledger: Ledger, unit: str | None) -> None:
    """Refuse to go on with weights or thresholds under a ledger that does not know what was spent on them before.

    Weights and thresholds that pass are marked as this ledger's.

    Raises:
        PrivacyError: they were trained under another ledger, or the ledger's steps were charged for another unit.
    """
    ledger.check_unit(unit)
    layers = [] if module is None else [layer for layer in module.modules() if _has_trainable(layer)]
    if any(_run_of(layer) not in (None, ledger.run_id) for layer in layers):
        raise PrivacyError(
            "this model was trained under another ledger, whose spending this one would not count; pass "
            "DPStrategy(ledger=first.ledger), or resume with ckpt_path"
        )
    learns = [policy] if policy.queries else []
    if any(_run_of(learner) not in (None, ledger.run_id) for learner in learns):
        raise PrivacyError(
            f"this {type(policy).__name__} learnt its thresholds under another ledger, whose spending this one would not "
            "count; give each strategy a policy of its own, or pass DPStrategy(ledger=first.ledger)"
        )
    for trained in (*layers, *learns):
        vars(trained)[MARK] = ledger.run_id


def _has_trainable(layer: nn.Module) -> bool:
    return any(p.requires_grad for p in layer.parameters(recurse=False))


def _run_of(trained: object) -> object:
    return vars(trained).get(MARK)
