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
from dplit.fairness.metrics.rates import LIMIT

if TYPE_CHECKING:
    from fairlearn.metrics import MetricFrame

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
WeightedMetric = Callable[..., float]
"""A metric as fairlearn and scikit-learn have them: `metric(y_true, y_pred, sample_weight=weights)`."""


def metric_frame(counts: Counts, metrics: Mapping[str, WeightedMetric] | None = None) -> MetricFrame:
    """Return a MetricFrame in which each cell of the counts is one record with the count as its weight.

    Noisy counts below 0 weigh 0. What `table` leaves undefined is NaN: a group without examples, a rate with an empty
    denominator (fairlearn alone takes it as 0), and what is lost in the noise. `n` is the released size of a group.

    Args:
        counts: of examples with labels and predictions.
        metrics: functions that take `sample_weight`, NaN for a group that has no examples or is lost in the noise. None:
            `n` and `accuracy`; of two classes also `selection_rate`, `tpr` and `fpr`.

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
    weights = counts.cells.to(torch.float64).flatten().numpy()
    chosen = _default_metrics(counts) if metrics is None else {name: _Known(counts, m) for name, m in metrics.items()}
    return MetricFrame(
        metrics=chosen,
        y_true=label,
        y_pred=pred,
        sensitive_features=pd.Series(np.array(counts.groups)[group], name="group"),
        sample_params={name: {"sample_weight": weights} for name in chosen},
    )


def _ids(counts: Counts) -> tuple[torch.Tensor, ...]:
    """Return the group, label and prediction of each cell, `(K, C, C)` each."""
    return torch.meshgrid(*(torch.arange(size) for size in counts.cells.shape), indexing="ij")


def _default_metrics(counts: Counts) -> dict[str, WeightedMetric]:
    from fairlearn.metrics import false_positive_rate, selection_rate, true_positive_rate

    any_class: dict[str, WeightedMetric] = {"n": _Size(counts), "accuracy": _Known(counts, _accuracy)}
    if counts.classes > 2:
        return any_class
    return {
        **any_class,
        "selection_rate": _Known(counts, selection_rate),
        "tpr": _Known(counts, true_positive_rate, label=1),
        "fpr": _Known(counts, false_positive_rate, label=0),
    }


def _accuracy(y_true: Ids, y_pred: Ids, *, sample_weight: Weights) -> float:
    return float(np.average(y_true == y_pred, weights=sample_weight))


class _Size:
    """The sum of weights: of exact counts always, of noisy ones NaN where it is lost in the noise."""

    def __init__(self, counts: Counts) -> None:
        self.noise_std = counts.noise_std

    def __call__(self, y_true: Ids, y_pred: Ids, *, sample_weight: Weights) -> float:
        known = self.noise_std == 0 or _is_known(sample_weight, self.noise_std)
        return float(sample_weight.sum()) if known else math.nan


class _Known:
    """A metric of cells, NaN where all of them, or those of the label it is about, sum to nothing or are lost in the noise."""

    def __init__(self, counts: Counts, metric: WeightedMetric, label: int | None = None) -> None:
        self.noise_std, self.metric, self.label = counts.noise_std, metric, label

    def __call__(self, y_true: Ids, y_pred: Ids, *, sample_weight: Weights) -> float:
        denominator = sample_weight if self.label is None else sample_weight[y_true == self.label]
        if not (_is_known(sample_weight, self.noise_std) and _is_known(denominator, self.noise_std)):
            return math.nan
        return float(self.metric(y_true, y_pred, sample_weight=sample_weight.clip(min=0.0)))


def _is_known(weights: Weights, noise_std: float) -> bool:
    """Whether a sum of noisy cells is what `rates.is_known` takes for known."""
    return bool(weights.sum() > 0 and weights.sum() >= LIMIT * noise_std * math.sqrt(len(weights)))
