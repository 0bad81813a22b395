"""Examples of every kind, and fairlearn's figures of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    equal_opportunity_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from hypothesis import Phase, settings
from hypothesis import strategies as st

from dplit.fairness.metrics import counts as counting
from dplit.fairness.metrics.catalogue import table
from dplit.fairness.metrics.counts import count

NAMES = ("a", "b", "c", "d")
LAW = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # shrinking asks fairlearn a thousand times
)


@st.composite
def examples(draw, most_classes=4, smallest=0, least=-1):
    """(C, group, label, pred) with some declared groups absent, often the first; a prediction of -1 is none."""
    c = draw(st.integers(2, most_classes))
    present = draw(st.lists(st.integers(0, len(NAMES) - 1), min_size=1, max_size=len(NAMES), unique=True))
    one = st.tuples(st.sampled_from(present), st.integers(0, c - 1), st.integers(least, c - 1))
    rows = draw(st.lists(one, min_size=smallest, max_size=40))
    group, label, pred = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T
    return c, group, label, pred


def counted(c, group, label, pred, loss=None):
    return count(NAMES, c, group, label, pred, loss)


def same(left, right):
    return (math.isnan(left) and math.isnan(right)) or left == pytest.approx(right, abs=1e-12)


def figures(counts):
    return {(row.metric, row.group): row.value for row in table(counts)}


def total(counts, metric):
    return next(row.value for row in table(counts) if row.metric == metric)


# ---- fairlearn, one class against the rest, on the groups that have the rate


def columns(c):
    return [1] if c == 2 else range(c)


def having(rate, group, label, k):
    """Groups whose rate for class k has a denominator."""
    wanted = {"tpr": label == k, "fpr": label != k}.get(rate, np.ones_like(label, dtype=bool))
    return set(group[wanted])


RATES = {"selection_rate": selection_rate, "tpr": true_positive_rate, "fpr": false_positive_rate}


def frame(rate, group, label, pred, k):
    """{group: rate} by a MetricFrame, without the groups where fairlearn would put 0 for 0/0."""
    keep = np.isin(group, list(having(rate, group, label, k)))
    if not keep.any():
        return {}
    truth, guess = (label[keep] == k).astype(int), (pred[keep] == k).astype(int)
    features = pd.Series(group[keep])  # fairlearn squeezes an array of one record to none
    return MetricFrame(metrics=RATES[rate], y_true=truth, y_pred=guess, sensitive_features=features).by_group.to_dict()


def oracle_rates(rate, c, group, label, pred):
    """{group: mean over the classes for which it has the rate}."""
    frames = [frame(rate, group, label, pred, k) for k in columns(c)]
    found = {g: [one[g] for one in frames if g in one] for g in set(group)}
    return {g: sum(values) / len(values) for g, values in found.items() if values}


def oracle_difference(function, rate, c, group, label, pred):
    found = []
    for k in columns(c):
        keep = np.isin(group, list(having(rate, group, label, k)))
        if len(set(group[keep])) >= 2:
            truth, guess = (label[keep] == k).astype(int), (pred[keep] == k).astype(int)
            found.append(function(truth, guess, sensitive_features=group[keep]))
    return max(found, default=math.nan)


def fpr_difference(truth, guess, *, sensitive_features):
    return equal_opportunity_difference(1 - truth, guess, sensitive_features=sensitive_features)


# ---- noise


SIGMA = 50.0


def noisy(counts, seed):
    noise = torch.randn(counts.cells.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return counts.with_noisy_cells(counts.cells + SIGMA * noise, SIGMA)


def large_and_absent(c):
    """Group a with 40,000 examples and accuracy near 0.8, b as many and 0.6, c and d none."""
    draw = torch.Generator().manual_seed(c)
    group = torch.arange(80_000) % 2
    label = torch.randint(c, (80_000,), generator=draw)
    right = torch.rand(80_000, generator=draw) < 0.8 - 0.2 * group
    return counted(c, group, label, torch.where(right, label, (label + 1) % c), torch.ones(80_000))


# ---- mutants


INDEX = counting._cell_index


def packed(group, label, column, classes):
    """The bug of torchmetrics 1.9: groups numbered by those that the batch happens to hold."""
    return INDEX(torch.unique(group, return_inverse=True)[1], label, column, classes)
