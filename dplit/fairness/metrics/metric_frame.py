"""Counts as a `fairlearn.metrics.MetricFrame`, for those who go on with fairlearn's tools.

fairlearn loads when a frame is made, so that counting does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from dplit.errors import ConfigurationError
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.rates import LIMIT, label_totals
from dplit.predictions import NO_CLASS

if TYPE_CHECKING:
    from fairlearn.metrics import MetricFrame

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
WeightedMetric = Callable[..., float]
"""A metric as fairlearn and scikit-learn have them: `metric(y_true, y_pred, sample_weight=weights)`."""


def metric_frame(counts: Counts, metrics: Mapping[str, WeightedMetric] | None = None) -> MetricFrame:
    """Return a MetricFrame in which each cell of the counts is one record with the count as its weight.

    Its own metrics are those of `table`: NaN for a group without examples, for a rate with an empty
    denominator (fairlearn's own functions return 0) and for what is lost in the noise. An example without a prediction has
    the prediction -1.

    Args:
        counts: of examples with labels and predictions.
        metrics: functions that take `sample_weight`, in which noisy counts below 0 weigh 0; they are not called for a
            group that has no examples or is lost in the noise, which is NaN. None: `n` and `accuracy`; of two classes
            also `selection_rate`, `tpr` and `fpr`.

    Raises:
        ConfigurationError: examples came with a loss alone.

    >>> from dplit.fairness import count
    >>> group, label, pred = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 1, 1]])
    >>> metric_frame(count(["a", "b"], 2, group, label, pred)).by_group["accuracy"].to_dict()
    {'a': 0.5, 'b': 1.0}
    """
    import pandas as pd
    from fairlearn.metrics import MetricFrame

    if not counts.has_labels:
        raise ConfigurationError(
            "a MetricFrame is of labels and predictions, but the step returned a loss alone; return target and logits"
        )
    group, label, pred = (ids.flatten().numpy() for ids in _ids(counts))
    weights = _table(counts).to(torch.float64).flatten().numpy()
    chosen = _own_metrics(counts) if metrics is None else {name: _Foreign(counts, m) for name, m in metrics.items()}
    return MetricFrame(
        metrics=chosen,
        y_true=label,
        y_pred=pred,
        sensitive_features=pd.Series(np.array(counts.groups)[group], name="group"),
        sample_params={name: {"sample_weight": weights} for name in chosen},
    )


def _table(counts: Counts) -> torch.Tensor:
    """Return the counts, `(K, C, C)`; `(K, C, C + 1)` where there are examples without a prediction."""
    return counts.table if bool((label_totals(counts) != counts.cells.sum(2)).any()) else counts.cells


def _ids(counts: Counts) -> tuple[torch.Tensor, ...]:
    """Return the group, label and prediction of each cell of `_table`."""
    group, label, pred = torch.meshgrid(*(torch.arange(size) for size in _table(counts).shape), indexing="ij")
    return group, label, pred.masked_fill(pred == counts.classes, NO_CLASS)


def _own_metrics(counts: Counts) -> dict[str, WeightedMetric]:
    of_any_classes: dict[str, WeightedMetric] = {"n": _Size(counts), "accuracy": _Rate(counts, np.equal)}
    if counts.classes > 2:
        return of_any_classes
    return {
        **of_any_classes,
        "selection_rate": _Rate(counts, _selected),
        "tpr": _Rate(counts, _selected, label=1),
        "fpr": _Rate(counts, _selected, label=0),
    }


def _selected(y_true: Ids, y_pred: Ids) -> npt.NDArray[np.bool_]:
    return np.equal(y_pred, 1)


class _Size:
    """The sum of weights: of exact counts always, of noisy ones NaN where it is lost in the noise."""

    def __init__(self, counts: Counts) -> None:
        self.noise_std = counts.noise_std

    def __call__(self, y_true: Ids, y_pred: Ids, *, sample_weight: Weights) -> float:
        known = self.noise_std == 0 or _is_known(sample_weight, self.noise_std)
        return float(sample_weight.sum()) if known else math.nan


class _Rate:
    """The weight of the hits among the cells with one label, or any; see `rates.fraction`."""

    def __init__(
        self, counts: Counts, hit: Callable[[Ids, Ids], npt.NDArray[np.bool_]], label: int | None = None
    ) -> None:
        self.noise_std, self.hit, self.label = counts.noise_std, hit, label

    def __call__(self, y_true: Ids, y_pred: Ids, *, sample_weight: Weights) -> float:
        among = np.ones_like(y_true, dtype=bool) if self.label is None else y_true == self.label
        whole = sample_weight[among]
        if not (_is_known(sample_weight, self.noise_std) and _is_known(whole, self.noise_std)):
            return math.nan
        part = sample_weight[among & self.hit(y_true, y_pred)].sum()
        return float(min(max(part, 0.0) / whole.sum(), 1.0))


class _Foreign:
    """A given metric, NaN where there are no examples or they are lost in the noise."""

    def __init__(self, counts: Counts, metric: WeightedMetric) -> None:
        self.noise_std, self.metric = counts.noise_std, metric

    def __call__(self, y_true: Ids, y_pred: Ids, *, sample_weight: Weights) -> float:
        if not _is_known(sample_weight, self.noise_std):
            return math.nan
        return float(self.metric(y_true, y_pred, sample_weight=sample_weight.clip(min=0.0)))


def _is_known(weights: Weights, noise_std: float) -> bool:
    """Whether a sum of noisy cells is what `rates.is_known` takes for known."""
    return bool(weights.sum() > 0 and weights.sum() >= LIMIT * noise_std * math.sqrt(len(weights)))
