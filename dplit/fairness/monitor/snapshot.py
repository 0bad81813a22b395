"""What one evaluation released: figures by group at one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dplit.fairness.metrics.catalogue import PER_GROUP
from dplit.fairness.metrics.metric import Row
from dplit.fairness.metrics.quality import QUALITIES


@dataclass(frozen=True)
class Snapshot:
    """The figures of one split at one step.

    Attributes:
        epoch: Lightning's `current_epoch`.
        step: Lightning's `global_step`.
        split: "validation" or "test", with "/0", "/1", ... where there are several loaders.
        groups: the declared list.
        rows: what `metrics.catalogue.table` returned.
        epsilon: upper bound spent so far, over all groups; None for a run that is not private.
        delta: the δ it is stated at.
        epsilon_by_group: upper bound per group; empty where only the overall ε holds.

    """

    epoch: int
    step: int
    split: str
    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    epsilon: float | None = None
    delta: float | None = None
    epsilon_by_group: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str, group: str = "") -> float:
        """Return one figure; NaN where there is none."""
        return self._values.get((metric, group), math.nan)

    def summary(self, metric: str) -> Row:
        """Return the row of a metric that has one, whatever its group; KeyError if there is none."""
        for row in self.rows:
            if row.metric == metric:
                return row
        raise KeyError(metric)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, in the order of the rows."""
        return tuple(dict.fromkeys(row.metric for row in self.rows))

    @property
    def per_group(self) -> tuple[str, ...]:
        """The metrics that have a value for each declared group, in the order of the rows."""
        return tuple(metric for metric in PER_GROUP if metric in self.metrics)

    @property
    def quality(self) -> str:
        """What the model is judged by here: the first of `metrics.quality.QUALITIES` that the groups have, else accuracy."""
        return next((name for name in QUALITIES if name in self.per_group), QUALITIES[0])

    def is_defined(self, metric: str) -> bool:
        """Whether any group has a value of the metric that is not NaN."""
        return any(not math.isnan(self.value(metric, group)) for group in self.groups)

    @property
    def _values(self) -> dict[tuple[str, str], float]:
        return {(row.metric, row.group): row.value for row in self.rows}

    def lines(self) -> Iterator[tuple[object, ...]]:
        """Yield the file's lines, each group's ε among them as metric "epsilon"."""
        spent = [Row("epsilon", group, value) for group, value in self.epsilon_by_group.items()]
        for row in (*self.rows, *spent):
            yield (self.epoch, self.step, self.epsilon, self.delta, self.split, row.group, row.metric, row.value)
