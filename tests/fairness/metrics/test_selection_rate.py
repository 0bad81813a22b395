"""Selection rates and demographic parity at the edges; against fairlearn in test_metrics.py."""

from __future__ import annotations

import math

import torch

from dplit import fairness
from tests.fairness.metrics.cases import counted, figures


def test_selection_rate_of_many_classes_is_not_one_number():
    ids = torch.tensor([0, 1, 2])
    counts = counted(3, torch.tensor([0, 0, 1]), ids, ids)
    assert math.isnan(figures(counts)["selection_rate", "a"])
    assert fairness.demographic_parity_difference(counts) == 1.0


def test_selection_is_of_the_positive_class():
    counts = counted(2, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 0, 1]))
    assert [figures(counts)["selection_rate", name] for name in "ab"] == [1.0, 0.5]
    assert fairness.demographic_parity_difference(counts) == 0.5
