"""How each declared group fares: counts, metrics, and a Lightning callback that shows them.

The callback loads on first use, so that the metrics need torch alone; fairlearn loads when a `metric_frame` is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dplit.fairness.metrics.accuracy import accuracy_gap, overall_accuracy, worst_group, worst_group_accuracy
from dplit.fairness.metrics.catalogue import table
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.equalized_odds import equal_opportunity_difference, equalized_odds_difference
from dplit.fairness.metrics.metric_frame import metric_frame
from dplit.fairness.metrics.selection_rate import demographic_parity_difference

if TYPE_CHECKING:
    from dplit.fairness.monitor.monitor import FairnessMonitor

__all__ = [
    "Counts",
    "FairnessMonitor",
    "accuracy_gap",
    "count",
    "demographic_parity_difference",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "metric_frame",
    "overall_accuracy",
    "table",
    "worst_group",
    "worst_group_accuracy",
]


def __getattr__(name: str) -> type[FairnessMonitor]:
    if name == "FairnessMonitor":
        from dplit.fairness.monitor.monitor import FairnessMonitor

        return FairnessMonitor
    raise AttributeError(f"module 'dplit.fairness' has no attribute {name!r}")
