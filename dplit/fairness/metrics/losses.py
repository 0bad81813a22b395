"""Rates of the losses themselves: means over examples, and perplexities, which are of tokens.

A loss that is not a number makes its group's figure infinite, not missing: a group must not leave a gap by diverging.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dplit.fairness.metrics.counts import Counts


def losses(counts: Counts) -> Tensor:
    """Mean loss per group, `(K, 1)` float64; NaN for a group without losses."""
    return _mean(counts.loss_sum, counts.loss_count)[:, None]


def perplexities(counts: Counts) -> Tensor:
    """exp(Σᵢ lossᵢ·tokensᵢ / Σᵢ tokensᵢ) over the texts i of a group, `(K, 1)` float64; NaN for a group without tokens.

    A text's loss is the mean of −ln p over its tokens, so the exponent is the mean over all tokens of the group, whatever
    text they stand in: the group's cross-entropy rate. Source: Jelinek et al. 1977, doi:10.1121/1.2016299.
    """
    return _mean(counts.token_loss, counts.tokens).exp()[:, None]


def _mean(total: Tensor, number: Tensor) -> Tensor:
    return torch.where(
        number > 0, (total / number).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf), torch.nan
    )
