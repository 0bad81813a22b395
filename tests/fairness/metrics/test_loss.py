"""Mean losses by group, with an absent group and one that diverged."""

from __future__ import annotations

import math

import pytest
import torch

from dplit.fairness.metrics import loss as loss_module
from dplit.fairness.metrics import perplexity as perplexity_module
from dplit.fairness.metrics.counts import count
from tests.fairness.metrics.cases import counted, figures
from tests.fairness.metrics.test_perplexity import texts, words


def test_losses_are_means_per_group_and_overall():
    group, zeros = torch.tensor([0, 0, 3]), torch.zeros(3, dtype=torch.int64)
    counts = counted(2, group, zeros, zeros, torch.tensor([1.0, 2.0, 6.0])) + counted(2, group, zeros, zeros)
    got = figures(counts)
    assert (got["loss", "a"], got["loss", "d"], got["overall_loss", ""]) == (1.5, 6.0, 3.0)
    assert math.isnan(got["loss", "b"])


def test_losses_are_means_over_texts():
    group, loss, _ = texts()
    got = figures(words())
    means = {name: float(loss[group == g].mean()) for g, name in enumerate("abc")}
    assert {name: got["loss", name] for name in "abc"} == pytest.approx(means)
    assert got["loss_gap", ""] == pytest.approx(max(means.values()) - min(means.values()))
    worst = max(means, key=means.__getitem__)
    assert got["worst_group_loss", worst] == pytest.approx(means[worst])
    assert [got["n", name] for name in "abcd"] == [*torch.bincount(group, minlength=4).tolist()]


def law_a_group_that_diverged_stays_in_the_gap():
    for broken in (math.nan, math.inf):
        loss, ids = torch.tensor([1.0, broken, 2.0]), torch.tensor([0, 1, 2])
        got = figures(count(tuple("abcd"), 2, ids, None, None, loss, torch.tensor([5, 5, 5])))
        for metric in ("loss", "perplexity"):
            assert got[f"{metric}_gap", ""] == math.inf
            assert got[f"worst_group_{metric}", "b"] == math.inf
            assert math.isnan(got[metric, "d"])


def test_a_group_that_diverged_stays_in_the_gap():
    law_a_group_that_diverged_stays_in_the_gap()


def test_mutant_what_is_not_a_number_is_missing(monkeypatch):
    for module in (loss_module, perplexity_module):
        monkeypatch.setattr(module, "mean", lambda total, number: total / number)
    with pytest.raises(AssertionError):
        law_a_group_that_diverged_stays_in_the_gap()
