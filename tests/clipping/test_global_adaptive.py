"""Global clipping with a moving cutoff, against its published rule."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.clipping import GlobalAdaptive
from tests.clipping.laws import ready

NONE = torch.zeros(0, dtype=torch.int64)


def test_global_adaptive_clips_the_large_and_follows_its_count() -> None:
    policy = ready(GlobalAdaptive(bound=2.0, cutoff=10.0, fraction=0.7, learning_rate=0.1))
    norms = torch.tensor([1.0, 8.0, 20.0])
    assert torch.allclose(policy.weights(norms, NONE), torch.tensor([0.2, 0.2, 0.1]))
    assert int(policy.ask(norms, NONE).value) == 2
    policy.tell(torch.tensor(30.0, dtype=torch.float64))
    assert policy.state_dict()["cutoff"] == pytest.approx(10 * math.exp(0.3 - 0.1))
    for _ in range(100):
        policy.tell(torch.tensor(-50.0, dtype=torch.float64))
    assert policy.state_dict()["cutoff"] == policy.bound
