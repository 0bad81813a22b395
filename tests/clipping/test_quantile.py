"""A threshold at a quantile of the norms, against its published rule."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.clipping import Quantile
from tests.clipping.laws import ready

NONE = torch.zeros(0, dtype=torch.int64)


def test_quantile_moves_as_published() -> None:
    policy = ready(Quantile(quantile=0.5, start=2.0, learning_rate=0.2))
    asked = policy.ask(torch.tensor([1.0, 2.0, 3.0, 0.5]), NONE)
    assert (float(asked.value), asked.sensitivity) == (1.0, 0.5)
    policy.tell(torch.tensor(20.0, dtype=torch.float64))
    assert policy.bound == pytest.approx(2 * math.exp(-0.2 * (20 / 100 + 0.5 - 0.5)))


def law_finds_the_quantile(policy, norms_of) -> float:
    """Where the threshold settles, with a noisy count at every step."""
    torch.manual_seed(0)
    for _ in range(300):
        norms = norms_of(torch.rand(100))
        asked = policy.ask(norms, torch.zeros(100, dtype=torch.int64))
        std = policy.queries[0] * asked.sensitivity
        policy.tell(asked.value.double() + std * torch.randn(asked.value.shape, dtype=torch.float64))
    return policy.bound


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_quantile_finds_it(quantile: float) -> None:
    policy = ready(Quantile(quantile=quantile, start=0.1))
    assert law_finds_the_quantile(policy, lambda u: 10 * u) == pytest.approx(10 * quantile, rel=0.25)
