"""How many examples each group has."""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.fairness.metrics.aggregations import by_group
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Metric, Section, always
from dplit.fairness.metrics.rates import group_totals, is_known


def sizes(counts: Counts) -> Tensor:
    """Examples of each group, `(K, 1)` float64; of noisy counts NaN where lost in the noise."""
    total = group_totals(counts) + counts.alone
    known = is_known(total, counts, counts.classes**2) | (counts.noise_std == 0)
    return torch.where(known, total, torch.nan)[:, None]


METRICS = (Metric("n", Section.BY_GROUP, sizes, by_group, needs=always, place=0),)
