"""Equal opportunity and equalized odds at the edges; against fairlearn in test_metrics.py."""

from __future__ import annotations

import math

import torch

from dplit import fairness
from dplit.fairness.metrics.catalogue import PER_GROUP
from tests.fairness.metrics.cases import counted, figures


def test_absent_group_and_group_without_positives():
    counts = counted(2, torch.tensor([0, 0, 2, 2]), torch.tensor([1, 0, 0, 0]), torch.tensor([1, 1, 0, 0]))
    got = figures(counts)
    assert got["n", "b"] == 0
    assert all(math.isnan(got[metric, "b"]) for metric in PER_GROUP if metric != "n" and "perplexity" not in metric)
    assert math.isnan(got["tpr", "c"])
    assert got["fpr", "c"] == 0.0
    assert math.isnan(fairness.equal_opportunity_difference(counts))  # one group has positives
    assert fairness.equalized_odds_difference(counts) == 1.0  # of the FPRs, which two groups have
    assert fairness.accuracy_gap(counts) == 0.5
    assert fairness.worst_group(counts) == "a"
    assert fairness.worst_group_accuracy(counts) == 0.5
