"""DPSGD-F, against its published rule."""

from __future__ import annotations

import pytest
import torch

from dplit.clipping import GroupAdaptive
from tests.clipping.laws import declared, ids


def dpsgd_f(over: list[float], under: list[float], start: float) -> list[float]:
    """Xu et al. 2021, line by line."""
    over, under = [max(m, 0.0) for m in over], [max(o, 0.0) for o in under]
    sizes = [m + o for m, o in zip(over, under, strict=True)]
    found = []
    for m, b in zip(over, sizes, strict=True):
        ratio = 1.0 if b == 0 or sum(over) == 0 else (m / b) / (sum(over) / sum(sizes))
        found.append(min(max(start * (1 + ratio), start), (1 + len(over)) * start))
    return found


@pytest.mark.parametrize(
    ("over", "under"),
    [
        ([10, 30, 5], [90, 20, 5]),
        ([0, 0, 0], [50, 20, 3]),
        ([-4, 12, 3], [60, -7, -2]),
        ([1, 1, 1], [-5, -5, -5]),
        ([0, 0, 50], [900, 900, 0]),
        ([-1, -1, -1], [-1, -1, -1]),
    ],
)
def test_group_adaptive_is_dpsgd_f(over: list[float], under: list[float]) -> None:
    policy = declared(GroupAdaptive(start=2.0))
    policy.tell(torch.tensor([under, over], dtype=torch.float64).T)
    assert list(policy.bounds.values()) == pytest.approx(dpsgd_f(over, under, 2.0))
    assert policy.bound == max(policy.bounds.values())


def test_group_adaptive_counts_against_the_common_threshold_wherever_the_others_went() -> None:
    policy = declared(GroupAdaptive(start=1.0))
    policy.tell(torch.tensor([[0.0, 50.0], [50.0, 0.0], [50.0, 0.0]], dtype=torch.float64))
    asked = policy.ask(torch.tensor([0.5, 1.5, 1.5]), ids(0, 0, 2))
    assert asked.value.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_smoothing_keeps_part_of_the_earlier_counts() -> None:
    policy = declared(GroupAdaptive(smoothing=0.75))
    for answer in ([[8.0, 0.0]] * 3, [[0.0, 8.0]] * 3):
        policy.tell(torch.tensor(answer, dtype=torch.float64))
    assert policy.state_dict()["counts"] == [[6.0, 2.0]] * 3
