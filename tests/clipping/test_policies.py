"""What each policy does, against its published rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dplit.clipping import (
    Global,
    GlobalAdaptive,
    GroupAdaptive,
    GroupQuantile,
    GroupRates,
    PerLayer,
    PerLayerAdaptive,
    Quantile,
    Reweighted,
)
from tests.clipping.laws import GROUPS, ones, ready, tensors

NONE = torch.zeros(0, dtype=torch.int64)


def declared(policy, groups=GROUPS):
    policy.declare(groups)
    return ready(policy)


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_global_scales_all_alike_and_leaves_out_the_large() -> None:
    norms = torch.tensor([0.0, 1.0, 9.9, 10.1])
    assert torch.allclose(Global(2.0, 10.0).weights(norms, NONE), torch.tensor([0.2, 0.2, 0.2, 0.0]))


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


def test_group_quantile_follows_its_quantile() -> None:
    torch.manual_seed(0)
    policy = declared(GroupQuantile(quantile=0.5, start=1.0))
    scale = torch.tensor([0.1, 1.0, 10.0])
    for _ in range(200):
        group = torch.randint(0, 3, (300,))
        asked = policy.ask(scale[group] * torch.rand(300), group)
        policy.tell(asked.value.double() + 10 * torch.randn(asked.value.shape, dtype=torch.float64))
    assert [policy.bounds[name] for name in GROUPS] == pytest.approx((scale / 2).tolist(), rel=0.25)


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


CAPS = dict(zip(GROUPS, [1.0, 0.5, 0.25], strict=True))
START = dict(zip(GROUPS, [4.0, 2.0, 1.0], strict=True))


@pytest.mark.parametrize("cls", [GroupQuantile, GroupAdaptive])
def test_caps_hold_whatever_is_answered_and_state_each_groups_share(cls) -> None:
    policy = declared(cls(start=START, caps=CAPS))
    torch.manual_seed(0)
    for _ in range(50):
        policy.tell(300 * torch.randn(3, 2, dtype=torch.float64))
        largest = max(policy.bounds.values())
        assert policy.bound == largest
        assert all(policy.bounds[name] <= CAPS[name] * largest * (1 + 1e-12) for name in GROUPS)
    assert policy.caps == CAPS
    assert declared(cls(start=START)).caps is None


def test_reweighted_inside_and_outside() -> None:
    weights = dict(zip(GROUPS, [1.0, 2.0, 4.0], strict=True))
    norms, group = torch.tensor([0.5, 0.5, 10.0]), ids(0, 1, 2)
    inside, outside = (declared(Reweighted(weights, bound=2.0, where=w)) for w in ("inside", "outside"))
    assert torch.allclose(inside.weights(norms, group), torch.tensor([1.0, 2.0, 0.2]))
    assert torch.allclose(outside.weights(norms, group), torch.tensor([1.0, 2.0, 0.8]))
    assert (inside.bound, outside.bound) == (2.0, 8.0)
    assert outside.caps == dict(zip(GROUPS, [0.25, 0.5, 1.0], strict=True))


def test_rates_are_the_loaders_times_the_factors() -> None:
    policy = declared(GroupRates(dict(zip(GROUPS, [1.0, 2.0, 4.0], strict=True)), bound=3.0))
    assert policy.rates(0.1) == pytest.approx(dict(zip(GROUPS, [0.1, 0.2, 0.4], strict=True)))


def test_per_layer_clips_each_parameter_alone() -> None:
    policy = ready(PerLayer(bound=3.0))
    norms = torch.tensor([[10.0, 0.1], [0.1, 10.0], [math.sqrt(3), math.sqrt(3)]])
    each = 3 / math.sqrt(3)
    assert torch.allclose(policy.weights(norms, ids(0, 0)), (each / norms).clamp(max=1))


def test_blocks_share_a_threshold() -> None:
    policy = ready(PerLayer(bounds={"0": 5.0, "": 1.0}))
    weights = policy.weights(torch.tensor([[6.0], [8.0], [4.0]]), ids(0))
    assert torch.allclose(weights[:, 0], torch.tensor([0.5, 0.5, 0.25]))
    assert policy.bound == pytest.approx(math.sqrt(26))


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


def test_a_row_of_norms_for_each_parameter() -> None:
    policy = ready(PerLayer())
    assert policy.weights(*tensors(policy, [ones(1.0, 0)])).shape == (3, 1)
