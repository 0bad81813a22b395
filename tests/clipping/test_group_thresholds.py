"""A declared threshold for each group."""

from __future__ import annotations

import pytest
import torch

from dplit.clipping import Flat, GroupThresholds
from tests.clipping.laws import GROUPS, declared

THRESHOLDS = dict(zip(GROUPS, [4.0, 1.0, 0.5], strict=True))


def law_each_group_is_clipped_as_by_a_policy_of_its_own() -> None:
    torch.manual_seed(0)
    norms, group = 8 * torch.rand(60), torch.randint(3, (60,))
    weights = declared(GroupThresholds(THRESHOLDS)).weights(norms, group)
    for k, name in enumerate(GROUPS):
        members = group == k
        assert torch.equal(weights[members], Flat(THRESHOLDS[name]).weights(norms[members], group[members]))


def test_each_group_is_clipped_as_by_a_policy_of_its_own() -> None:
    law_each_group_is_clipped_as_by_a_policy_of_its_own()


def test_mutant_thresholds_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dplit.clipping.group_thresholds.of_examples", lambda values, group, norms: values.flip(0)[group]
    )
    with pytest.raises(AssertionError):
        law_each_group_is_clipped_as_by_a_policy_of_its_own()


def test_the_bound_is_the_largest_and_the_ratios_are_to_it() -> None:
    policy = declared(GroupThresholds(THRESHOLDS))
    assert policy.bound == 4.0
    assert policy.caps == dict(zip(GROUPS, [1.0, 0.25, 0.125], strict=True))
