"""Declared rates of groups."""

from __future__ import annotations

import pytest
import torch

from dplit.clipping import Flat, GroupRates
from tests.clipping.laws import GROUPS, declared, ids


def test_rates_are_the_loaders_times_the_factors() -> None:
    policy = declared(GroupRates(dict(zip(GROUPS, [1.0, 2.0, 4.0], strict=True)), bound=3.0))
    assert policy.rates(0.1) == pytest.approx(dict(zip(GROUPS, [0.1, 0.2, 0.4], strict=True)))


def test_weights_are_those_of_flat_clipping_whatever_the_group() -> None:
    policy = declared(GroupRates(dict(zip(GROUPS, [1.0, 2.0, 4.0], strict=True)), bound=3.0))
    norms, group = torch.tensor([1.0, 6.0, 6.0]), ids(0, 1, 2)
    assert torch.equal(policy.weights(norms, group), Flat(3.0).weights(norms, group))
    assert policy.bound == 3.0
