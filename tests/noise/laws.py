"""Statistical laws of noise, with what is drawn anew on every run."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

DRAWS = 1_000_000
STD = 2.5
ALARM = 1e-7
"""Chance of a false alarm of each check; the draws are fresh."""


def law_normal(values: Tensor, std: float = STD) -> None:
    """Kolmogorov-Smirnov, mean and variance of n values that should be N(0, std²)."""
    z = values.double().numpy() / std
    n = len(z)
    limit = stats.norm.isf(ALARM / 2)
    assert abs(z.mean()) * np.sqrt(n) < limit
    assert abs(z.var() - 1) / np.sqrt(2 / n) < limit
    assert stats.kstest(z[:: max(1, n // 200_000)], "norm").pvalue > ALARM


def law_uncorrelated(a: Tensor, b: Tensor) -> None:
    """The correlation of two long vectors is within 5.5 standard deviations of 0."""
    a, b = a.double().flatten(), b.double().flatten()
    assert abs(float(torch.dot(a, b) / (a.norm() * b.norm()))) < 5.5 / np.sqrt(len(a))
