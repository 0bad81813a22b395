"""Flat clipping, against its published rule."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.clipping import Flat

NONE = torch.zeros(0, dtype=torch.int64)


def law_every_gradient_is_cut_to_the_bound() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(50, 4).double() * torch.rand(50, 1).double() * 5
    gradients[0] = 0.0
    policy = Flat(1.5)
    clipped = gradients * policy.weights(gradients.norm(dim=1), NONE)[:, None]
    for gradient, cut in zip(gradients, clipped, strict=True):
        expected = gradient if gradient.norm() <= 1.5 else 1.5 * gradient / gradient.norm()
        assert torch.allclose(cut, expected)


def test_every_gradient_is_cut_to_the_bound() -> None:
    law_every_gradient_is_cut_to_the_bound()


def test_mutant_twice_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.clipping.flat.clip", lambda norms, bound: (2 * bound / norms).clamp(max=1.0))
    with pytest.raises(AssertionError):
        law_every_gradient_is_cut_to_the_bound()


def test_what_is_not_finite_is_left_out() -> None:
    assert Flat().weights(torch.tensor([math.nan, math.inf]), NONE).tolist() == [0.0, 0.0]
