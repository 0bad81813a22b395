"""False positive rates among the texts that mention an identity term, and how unequal they are.

Source: Dixon, Li, Sorensen, Thain and Vasserman 2018, "Measuring and mitigating unintended bias in text
classification", doi:10.1145/3278721.3278729: the false positive equality difference is Σₜ |FPR − FPRₜ|, with FPR of all
texts and FPRₜ of those that mention term t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.fairness.metrics.aggregations import by_group, overall
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.equalized_odds import false_positive_rates
from dplit.fairness.metrics.metric import Row
from dplit.fairness.metrics.rates import label_totals

if TYPE_CHECKING:
    from dplit.fairness.monitor.outputs import Outcome

ENTRY = "mentions"
"""Where a batch says which terms each text mentions, `(n, T)` bool."""

PER_TERM = ("term_negatives", "term_fpr", "term_fpr_difference")
"""Metrics with one value per term: texts of class 0 that mention it, their FPR, and that minus the FPR of all texts."""

SUMMARY = ("overall_fpr", "false_positive_equality_difference")
"""Metrics with one value."""


def mentioned(batch: object, terms: Sequence[str]) -> Tensor:
    """Return the `(n, T)` bool mentions of a batch.

    Raises:
        ConfigurationError: the batch has none, or not of these terms.

    """
    mentions = batch.get(ENTRY) if isinstance(batch, Mapping) else None
    if not isinstance(mentions, Tensor) or mentions.dim() != 2 or mentions.shape[1] != len(terms):
        kind = f"of shape {tuple(mentions.shape)}" if isinstance(mentions, Tensor) else "missing"
        raise ConfigurationError(
            f"{ENTRY!r} of a batch is {kind}, but {len(terms)} identity terms are declared; let the batch say which of "
            f"them each text mentions, ({ENTRY}: (n, {len(terms)})), or declare none"
        )
    return mentions.bool()


def count_terms(terms: Sequence[str], mentions: Tensor, outcome: Outcome) -> Counts:
    """Count a batch by term in place of group: a text counts for every term it mentions, one without terms for none.

    A record moves as many cells as it mentions terms, so noise of sensitivity 1 does not cover these counts.

    Args:
        terms: T names.
        mentions: `(n, T)` bool.
        outcome: what the step returned for the n texts.

    Raises:
        ConfigurationError: there are not two classes, or not a text for each row of `mentions`.

    """
    if outcome.label is None or outcome.pred is None or outcome.classes != 2:
        what = "a loss alone" if outcome.label is None else f"{outcome.classes} classes"
        raise ConfigurationError(
            f"false positives of identity terms are of two classes, but the step returned {what}; set FairnessMonitor(terms=[])"
        )
    if len(mentions) != len(outcome.label):
        raise ConfigurationError(
            f"{ENTRY!r} has {len(mentions)} rows for {len(outcome.label)} texts; give each text one row of its own"
        )
    text, term = mentions.detach().cpu().nonzero().T
    return count(terms, 2, term, outcome.label.detach().cpu()[text], outcome.pred.detach().cpu()[text])


def term_rows(by_term: Counts, counts: Counts) -> list[Row]:
    """Return the figures of `PER_TERM` and `SUMMARY`.

    A term that no text of class 0 mentions has no rate and is left out of the sum; without any rate the sum is NaN.

    Args:
        by_term: what `count_terms` counted.
        counts: the same examples by group.

    """
    fpr, term_fpr = overall(false_positive_rates, counts)[""], by_group(false_positive_rates, by_term)
    negatives = dict(zip(by_term.groups, label_totals(by_term)[:, 0].tolist(), strict=True))
    differences = {term: rate - fpr for term, rate in term_fpr.items()}
    columns = zip(PER_TERM, (negatives, term_fpr, differences), strict=True)
    rows = [Row(metric, term, float(value)) for metric, values in columns for term, value in values.items()]
    distances = [abs(value) for value in differences.values() if not math.isnan(value)]
    summaries = (fpr, math.fsum(distances) if distances else math.nan)
    return [*rows, *(Row(metric, "", value) for metric, value in zip(SUMMARY, summaries, strict=True))]
