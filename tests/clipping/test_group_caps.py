"""Declared caps hold whatever is answered, and are the sensitivity ratios of the groups."""

from __future__ import annotations

import pytest
import torch

from dplit.clipping import GroupAdaptive, GroupQuantile
from dplit.clipping.group_caps import GroupCaps
from dplit.errors import ConfigurationError
from tests.clipping.laws import GROUPS, declared

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


def law_another_group_is_limited_by_the_groups_of_cap_1() -> None:
    caps = GroupCaps(START, CAPS)
    assert caps.starting_thresholds(GROUPS).tolist() == [4.0, 2.0, 1.0]
    assert caps.limited(torch.tensor([8.0, 9.0, 1.5], dtype=torch.float64)).tolist() == [8.0, 4.0, 1.5]


def test_another_group_is_limited_by_the_groups_of_cap_1() -> None:
    law_another_group_is_limited_by_the_groups_of_cap_1()


def test_mutant_caps_relative_to_any_largest_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(self: GroupCaps, thresholds: torch.Tensor) -> torch.Tensor:
        return torch.minimum(thresholds, self._ratios * thresholds.max())

    monkeypatch.setattr(GroupCaps, "limited", limited)
    with pytest.raises(AssertionError):
        law_another_group_is_limited_by_the_groups_of_cap_1()


def test_without_caps_nothing_is_limited() -> None:
    caps = GroupCaps(3.0, None)
    assert caps.starting_thresholds(GROUPS).tolist() == [3.0] * 3
    assert caps.limited(torch.tensor([1.0, 50.0, 2.0])).tolist() == [1.0, 50.0, 2.0]


@pytest.mark.parametrize(
    ("start", "caps"), [(0.0, None), ({"north": -1.0}, None), (1.0, {"north": 0.0}), (1.0, {"north": 1.1})]
)
def test_numbers_out_of_range_are_refused(start, caps) -> None:
    with pytest.raises(ConfigurationError):
        GroupCaps(start, caps)
