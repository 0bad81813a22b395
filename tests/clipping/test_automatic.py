"""Automatic clipping, against its published rule."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.clipping import Automatic

NONE = torch.zeros(0, dtype=torch.int64)


def law_every_gradient_is_normalised() -> None:
    """AUTO-S: wᵢ = C/(‖gᵢ‖ + γ), so the contribution grows with the norm and stays below C."""
    norms = torch.tensor([0.0, 0.01, 1.0, 1e6]).double()
    weights = Automatic(bound=2.0, gamma=0.5).weights(norms, NONE)
    assert weights.tolist() == pytest.approx([2.0 / (norm + 0.5) for norm in norms.tolist()])
    contributions = weights * norms
    assert torch.all(contributions.diff() > 0)
    assert torch.all(contributions < 2.0)


def test_every_gradient_is_normalised() -> None:
    law_every_gradient_is_normalised()


def test_mutant_without_gamma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Automatic, "weights", lambda self, norms, group: self.threshold / norms)
    with pytest.raises(AssertionError):
        law_every_gradient_is_normalised()


def test_what_is_not_finite_is_left_out() -> None:
    assert Automatic().weights(torch.tensor([math.nan, math.inf]), NONE).tolist() == [0.0, 0.0]
