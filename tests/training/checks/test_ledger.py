"""A model goes on under the ledger that it was trained under, and under no other."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from dplit.clipping import Flat, Quantile
from dplit.errors import PrivacyError
from dplit.privacy import Gaussian, Ledger
from dplit.training.checks import ledger as checks
from dplit.training.checks.ledger import check_ledger


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def refused(module: nn.Module, ledger: Ledger, policy: Flat | Quantile | None = None) -> bool:
    try:
        check_ledger(module, policy or Flat(), ledger, None)
    except PrivacyError:
        return True
    return False


def law_weights_keep_to_their_ledger() -> None:
    first, second, module = Ledger(), Ledger(), model()
    assert not refused(module, first)
    assert not refused(module, first)
    assert refused(module, second)
    assert refused(nn.ModuleDict({"body": module[0], "head": nn.Linear(4, 2)}), second), "the same layers elsewhere"
    assert refused(copy.deepcopy(module), second), "a copy of what was trained"
    assert not refused(model(), second)


def test_weights_keep_to_their_ledger() -> None:
    law_weights_keep_to_their_ledger()


def test_mutant_that_remembers_the_outer_module_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, str] = {}
    monkeypatch.setattr(checks, "_run_of", lambda trained: seen.get(id(trained)))
    monkeypatch.setattr(checks, "_has_trainable", lambda layer: isinstance(layer, nn.Sequential))
    with pytest.raises(AssertionError):
        law_weights_keep_to_their_ledger()


def test_frozen_layers_may_be_shared() -> None:
    body = nn.Linear(3, 4).requires_grad_(False)
    assert not refused(nn.Sequential(body, nn.Linear(4, 2)), Ledger())
    assert not refused(nn.Sequential(body, nn.Linear(4, 2)), Ledger())


def test_a_refused_model_is_not_taken_over() -> None:
    """What was refused under one ledger still goes on under its own, and its new layers are free."""
    first, second, trained, fresh = Ledger(), Ledger(), model(), nn.Linear(2, 2)
    assert not refused(trained, first)
    assert refused(nn.Sequential(trained, fresh), second)
    assert not refused(trained, first)
    assert not refused(fresh, second)


def test_thresholds_that_were_learnt_keep_to_their_ledger() -> None:
    first, second, policy = Ledger(), Ledger(), Quantile()
    assert not refused(model(), first, policy)
    assert refused(model(), second, policy)
    fixed = Flat()
    assert not refused(model(), first, fixed)
    assert not refused(model(), second, fixed)
    assert "_dplit_run_id" not in policy.settings()


def test_a_ledger_of_another_unit_is_refused() -> None:
    ledger = Ledger()
    ledger.record(Gaussian(1.0), unit="user")
    with pytest.raises(PrivacyError, match="keep the unit"):
        check_ledger(model(), Flat(), ledger, None)
    check_ledger(model(), Flat(), ledger, "user")
