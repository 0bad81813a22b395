"""What a model is judged by: a figure of each group with its overall value, its worst group and its gap."""

from __future__ import annotations

from collections.abc import Callable

from dplit.fairness.metrics.aggregations import by_group, difference, overall
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Aggregation, Metric, Rates, Section, has_labels

QUALITIES = ("accuracy", "perplexity", "loss")
"""Names of qualities, the preferred ones first: a model is judged by the first of them that is defined."""


def quality_metrics(
    name: str, rates: Rates, worst: Aggregation, *, needs: Callable[[Counts], bool] = has_labels, place: int = 1000
) -> tuple[Metric, ...]:
    """Return the metrics `name`, `overall_name`, `worst_group_name` and `name_gap`.

    Args:
        name: of the figure by group.
        rates: the figure.
        worst: `smallest` where more is better, `largest` where less is.
        needs: as for `Metric`.
        place: as for `Metric`, the same in each section.

    """
    return (
        Metric(name, Section.BY_GROUP, rates, by_group, needs, place),
        Metric(f"overall_{name}", Section.OVERALL, rates, overall, needs, place),
        Metric(f"worst_group_{name}", Section.WORST_GROUP, rates, worst, needs, place),
        Metric(f"{name}_gap", Section.GAP, rates, difference, needs, place),
    )
