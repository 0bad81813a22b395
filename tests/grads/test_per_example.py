"""Gradients of several applications of a parameter add up: their norms, sums, units and what is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dplit.grads import Tape, per_example
from dplit.grads.factors.base import DenseGrad
from tests.grads.rules.test_rules import Text, check, functional, padded_ids, plain, reused


def test_an_unused_parameter_has_gradient_zero() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})
    with Tape(model, 4) as tape:
        value = model["used"](torch.randn(4, 3)).sum(1)
    gradients = tape.backward(value)
    assert gradients.sq_norms()["idle.weight"].tolist() == [0.0] * 4
    assert gradients.weighted_sum(torch.ones(4))["idle.weight"].abs().sum() == 0


def test_mutant_without_cross_terms_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(per_example, "inner", lambda a, b: torch.zeros(a.examples, dtype=torch.float64))
    for body in (plain, reused, functional):
        with pytest.raises(AssertionError):
            check(Text(body), padded_ids(), torch.float64)


def test_cancelling_gradients_never_understate_the_norm() -> None:
    """Two large opposite gradients of one scale leave rounding behind; the norm covers it."""
    big = torch.full((3,), 3e5) + torch.rand(3)
    factors = {"p": [DenseGrad(big[:, None]), DenseGrad(-big[:, None] + 0.01)]}
    gradients = per_example.PerExample({"p": torch.zeros(1)}, factors, 3)
    contribution = sum(grad.dense() for grad in gradients.factors["p"]).norm(dim=1)
    assert torch.all(gradients.norms() >= contribution)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_of_narrow_types_are_wide(dtype: torch.dtype) -> None:
    """A float32 sum of narrow activations: one example more moves it by that example's share alone."""
    torch.manual_seed(7)
    model, x = nn.Linear(16, 4).to(dtype), torch.randn(200, 16).to(dtype)
    with Tape(model, 200) as tape:
        value = model(x).sum(1)
    gradients = tape.backward(value)
    total = gradients.weighted_sum(torch.ones(200))["weight"]
    assert total.dtype == torch.float32
    assert torch.allclose(total, x.float().sum(0).expand(4, -1), atol=1e-3)
