"""Selection rates, and demographic parity: that every group is selected equally often.

One selection rate for each group says nothing with more than two classes (its mean over classes is 1/C whatever the model
does), so `selection_rate` is NaN there, while `demographic_parity_difference` is not.
"""

from __future__ import annotations

from torch import Tensor

from dplit.fairness.metrics.aggregations import by_group_if_binary, difference
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.metric import Metric, Section
from dplit.fairness.metrics.rates import fraction, group_totals, positive_columns


def selection_rates(counts: Counts) -> Tensor:
    """P(ŷ = c | g), `(K, columns)`."""
    selected = positive_columns(counts.cells.sum(1))
    return fraction(selected, group_totals(counts)[:, None], counts, counts.classes**2)


def demographic_parity_difference(counts: Counts) -> float:
    """Return the largest difference of selection rates between groups, the largest over classes where there are more than two.

    NaN where fewer than two groups have examples. Source: Agarwal et al. 2018, arXiv:1803.02453; fairlearn's metric of
    this name.

    >>> from dplit.fairness import count
    >>> import torch
    >>> group, label, pred = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 0, 1]])
    >>> demographic_parity_difference(count(["a", "b"], 2, group, label, pred))
    0.5
    """
    return difference(selection_rates, counts)[""]


METRICS = (
    Metric("selection_rate", Section.BY_GROUP, selection_rates, by_group_if_binary, place=10),
    Metric("demographic_parity_difference", Section.CRITERION, selection_rates, difference, place=10),
)
