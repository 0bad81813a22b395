"""Ghost norms equal the norms of the built gradients, whichever way and in whatever blocks they are computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.grads.rules.test_rules import check


@pytest.mark.parametrize("per_number", [0, 10**12], ids=["kept", "ghost"])
@pytest.mark.parametrize("t", [1, 7, 128, 132])
def test_exact_either_way(monkeypatch: pytest.MonkeyPatch, per_number: int, t: int) -> None:
    """With gradients kept and with Gram matrices, halved or not."""
    monkeypatch.setattr("dplit.grads.factors.ghost_norm.PRODUCTS_PER_NUMBER", {"cpu": per_number})
    monkeypatch.setattr("dplit.grads.factors.ghost_norm.MAX_GRAM_POSITIONS", 130)
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
    model.append(model[2])
    check(model, torch.randn(3, t, 3), torch.float64, lambda m, x: m(x.double()).square().flatten(1).sum(1))
