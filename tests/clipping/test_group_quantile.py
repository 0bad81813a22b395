"""A threshold for each group at the same quantile of its norms."""

from __future__ import annotations

import pytest
import torch

from dplit.clipping import GroupQuantile
from tests.clipping.laws import GROUPS, declared


def test_group_quantile_follows_its_quantile() -> None:
    torch.manual_seed(0)
    policy = declared(GroupQuantile(quantile=0.5, start=1.0))
    scale = torch.tensor([0.1, 1.0, 10.0])
    for _ in range(200):
        group = torch.randint(0, 3, (300,))
        asked = policy.ask(scale[group] * torch.rand(300), group)
        policy.tell(asked.value.double() + 10 * torch.randn(asked.value.shape, dtype=torch.float64))
    assert [policy.bounds[name] for name in GROUPS] == pytest.approx((scale / 2).tolist(), rel=0.25)


def test_a_group_lost_in_the_noise_keeps_its_threshold() -> None:
    policy = declared(GroupQuantile(quantile=0.5, start=2.0, noise_multiplier=10.0))
    policy.tell(torch.tensor([[42.0, 0.0], [43.0, 0.0], [-900.0, 0.0]], dtype=torch.float64))  # 3·10·√2 = 42.4
    assert [policy.bounds[name] == 2.0 for name in GROUPS] == [True, False, True]
