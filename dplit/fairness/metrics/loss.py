"""The mean loss of each group's examples.

A loss that is not a number makes its group's figure infinite, not missing: a group must not leave a gap by diverging.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dplit.fairness.metrics.aggregations import largest
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import always
from dplit.fairness.metrics.quality import quality_metrics


def losses(counts: Counts) -> Tensor:
    """Mean loss per group, `(K, 1)` float64; NaN for a group without losses."""
    return mean(counts.loss_sum, counts.loss_count)[:, None]


def mean(total: Tensor, number: Tensor) -> Tensor:
    """Return total/number: Inf where the total is NaN, NaN where the number is 0."""
    finite_or_infinite = (total / number).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return torch.where(number > 0, finite_or_infinite, torch.nan)


METRICS = quality_metrics("loss", losses, largest, needs=always, place=40)
