"""Accuracy, its worst group and its gap, at the edges; against fairlearn in test_metrics.py."""

from __future__ import annotations

import math

import torch

from dplit import fairness
from dplit.fairness.metrics.counts import Counts
from tests.fairness.metrics.cases import NAMES, counted, figures


def test_nothing_at_all():
    counts = Counts.none(NAMES)
    got = figures(counts)
    assert all(math.isnan(value) for (metric, _), value in got.items() if metric != "n")
    assert fairness.worst_group(counts) is None


def test_ties_go_to_the_first_declared():
    counts = counted(2, torch.tensor([3, 1]), torch.tensor([1, 1]), torch.tensor([0, 0]))
    assert fairness.worst_group(counts) == "b"


def test_the_worst_group_is_the_one_with_the_smallest_accuracy():
    counts = counted(2, torch.tensor([0, 0, 2, 2]), torch.tensor([1, 0, 1, 0]), torch.tensor([1, 1, 1, 0]))
    assert fairness.worst_group(counts) == "a"
    assert fairness.worst_group_accuracy(counts) == 0.5
    assert fairness.accuracy_gap(counts) == 0.5
    assert fairness.overall_accuracy(counts) == 0.75
    assert figures(counts)["worst_group_accuracy", "a"] == 0.5
