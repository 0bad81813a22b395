"""The metrics there are: each file of this package that has a tuple `METRICS` adds them, and a new metric is a new file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dplit.fairness.metrics
from dplit.discovery import modules
from dplit.errors import ConfigurationError
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Metric, Row, Section


def discover(path: Iterable[str], package: str) -> tuple[Metric, ...]:
    """Return the metrics that the modules of a package list in `METRICS`, in the order of the file.

    Raises:
        ConfigurationError: two metrics have one name.

    """
    files = [module for module in modules(package, path) if module.__name__ != __name__]
    metrics = [metric for module in files for metric in vars(module).get("METRICS", ())]
    for name in {metric.name for metric in metrics}:
        if sum(metric.name == name for metric in metrics) > 1:
            raise ConfigurationError(f"two files define the metric {name!r}, and one would hide the other; rename one")
    return tuple(sorted(metrics, key=lambda metric: (metric.section, metric.place)))


METRICS = discover(dplit.fairness.metrics.__path__, dplit.fairness.metrics.__name__)
"""Every metric, in the order of the file."""

PER_GROUP = tuple(metric.name for metric in METRICS if metric.section is Section.BY_GROUP)
"""Names of the metrics with one value for each declared group."""

SUMMARY = tuple(metric.name for metric in METRICS if metric.section is not Section.BY_GROUP)
"""Names of the metrics with one value."""


def table(counts: Counts, metrics: Sequence[Metric] = METRICS) -> list[Row]:
    """Compute every metric that examples like these have.

    >>> table(Counts.none(["a", "b"]))[:2]
    [Row(metric='n', group='a', value=0.0), Row(metric='n', group='b', value=0.0)]
    """
    return [
        Row(metric.name, group, value)
        for metric in metrics
        if metric.needs(counts)
        for group, value in metric.values(counts).items()
    ]
