"""How each declared group fares: counts, figures, and a Lightning callback that shows them.

The callback loads on first use, so that the figures need torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.rates import (
    accuracy_gap,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
    overall_accuracy,
    table,
    worst_group,
    worst_group_accuracy,
)

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
    "overall_accuracy",
    "table",
    "worst_group",
    "worst_group_accuracy",
]


def __getattr__(name: str) -> Any:
    if name == "FairnessMonitor":
        from dplit.fairness.monitor.monitor import FairnessMonitor

        return FairnessMonitor
    raise AttributeError(f"module 'dplit.fairness' has no attribute {name!r}")
