"""The perplexity of each group's tokens."""

from __future__ import annotations

from torch import Tensor

from dplit.fairness.metrics.aggregations import largest
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.metrics.loss import mean
from dplit.fairness.metrics.metric import has_tokens
from dplit.fairness.metrics.quality import quality_metrics


def perplexities(counts: Counts) -> Tensor:
    """exp(Σᵢ lossᵢ·tokensᵢ / Σᵢ tokensᵢ) over the texts i of a group, `(K, 1)` float64; NaN for a group without tokens.

    A text's loss is the mean of −ln p over its tokens, so the exponent is the mean over all tokens of the group, whatever
    text they stand in: the group's cross-entropy rate. Infinite where a loss is not a number.
    Source: Jelinek et al. 1977, doi:10.1121/1.2016299.
    """
    return mean(counts.token_loss, counts.tokens).exp()[:, None]


METRICS = quality_metrics("perplexity", perplexities, largest, needs=has_tokens, place=50)
