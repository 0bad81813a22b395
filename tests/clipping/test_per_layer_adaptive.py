"""A threshold for each parameter that follows a quantile of its norms, under one bound."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.clipping import PerLayerAdaptive
from tests.clipping.laws import ready


def test_per_layer_adaptive_shares_the_bound_as_the_quantiles_are() -> None:
    torch.manual_seed(0)
    policy = ready(PerLayerAdaptive(bound=3.0, quantile=0.5))
    scale = torch.tensor([[1.0], [2.0], [2.0]])
    for _ in range(300):
        asked = policy.ask(scale * torch.rand(3, 100), torch.zeros(100, dtype=torch.int64))
        noise = policy.queries[0] * asked.sensitivity * torch.randn(3, dtype=torch.float64)
        policy.tell(asked.value.double() + noise)
    found = list(policy.state_dict()["bounds"].values())
    assert math.hypot(*found) == pytest.approx(3.0)
    assert found == pytest.approx([1.0, 2.0, 2.0], rel=0.25)
