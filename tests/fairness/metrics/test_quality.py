"""What a model is judged by."""

from __future__ import annotations

import torch

from dplit.fairness.metrics.aggregations import largest
from dplit.fairness.metrics.catalogue import SUMMARY
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Section
from dplit.fairness.metrics.quality import QUALITIES, quality_metrics


def test_every_quality_has_its_summaries():
    for name in QUALITIES:
        assert {f"overall_{name}", f"worst_group_{name}", f"{name}_gap"} <= set(SUMMARY)


def test_a_quality_has_a_metric_in_each_section():
    constant = lambda counts: torch.tensor([[1.0], [4.0]]).double()[: len(counts.groups)]  # noqa: E731
    metrics = quality_metrics("error", constant, largest)
    assert [metric.section for metric in metrics] == list(Section)[:4]
    values = {metric.name: metric.values(Counts.none(["a", "b"])) for metric in metrics}
    assert values == {
        "error": {"a": 1.0, "b": 4.0},
        "overall_error": {"": 1.0},  # the one group of merged counts
        "worst_group_error": {"b": 4.0},
        "error_gap": {"": 3.0},
    }
