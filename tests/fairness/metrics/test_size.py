"""Sizes of groups, exact and noisy."""

from __future__ import annotations

import math

import torch

from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.size import sizes
from tests.fairness.metrics.cases import NAMES, counted

GROUP = torch.tensor([0, 0, 3])


def test_examples_with_labels_and_with_a_loss_alone_are_counted():
    zeros = torch.zeros(3, dtype=torch.int64)
    assert sizes(counted(2, GROUP, zeros, zeros))[:, 0].tolist() == [2.0, 0.0, 0.0, 1.0]
    assert sizes(count(NAMES, 2, GROUP, None, None, torch.ones(3)))[:, 0].tolist() == [2.0, 0.0, 0.0, 1.0]


def test_a_noisy_size_is_known_from_three_standard_deviations():
    """A group's size is a sum of C² = 4 noisy cells: 3·10·√4 = 60."""
    cells = torch.zeros(4, 2, 2).double()
    cells[:, 0, 0] = torch.tensor([60.0, 59.0, 0.0, -70.0])
    known = sizes(Counts.none(NAMES).with_noisy_cells(cells, 10.0))[:, 0].tolist()
    assert known[0] == 60.0
    assert all(math.isnan(size) for size in known[1:])
