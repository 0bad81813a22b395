"""The perplexity of each group is that of its tokens, whatever text they stand in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dplit.fairness.metrics import counts as counting
from dplit.fairness.metrics import perplexity
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.loss import mean
from tests.fairness.fairness_project import LOSS_METRICS, NAMES, TOKEN_METRICS
from tests.fairness.metrics.cases import figures


def texts(n=400, seed=0):
    """Groups a, b and c with texts of 0 to 40 tokens, the longer the better; all of c are empty; d is absent."""
    draw = np.random.default_rng(seed)
    group, tokens = draw.integers(0, 3, n), draw.integers(0, 40, n)
    tokens[group == 2] = 0
    loss = np.where(tokens > 0, 3.0 + 0.5 * (group == 1) - 0.05 * tokens + draw.normal(0, 0.3, n), 0.0)
    return tuple(map(torch.from_numpy, (group, loss, tokens)))


def words(n=400, batch=64):
    group, loss, tokens = texts(n)
    parts = [
        count(tuple("abcd"), 2, group[at], None, None, loss[at], tokens[at]) for at in torch.arange(n).split(batch)
    ]
    return sum(parts[1:], parts[0])


def law_perplexity_is_of_a_groups_tokens():
    """exp of the mean −ln p over the tokens of a group, as if its texts were one; told token by token here."""
    group, loss, tokens = (part.numpy() for part in texts())
    got = figures(words())
    by_token = {g: np.repeat(loss[group == g], tokens[group == g]) for g in range(3)}
    expected = {name: np.exp(by_token[g].mean()) for g, name in enumerate("ab")}
    assert {name: got["perplexity", name] for name in "ab"} == pytest.approx(expected, rel=1e-12)
    assert all(math.isnan(got["perplexity", name]) for name in "cd")
    assert got["overall_perplexity", ""] == pytest.approx(
        np.exp(np.concatenate([*by_token.values()]).mean()), rel=1e-12
    )
    assert got["perplexity_gap", ""] == pytest.approx(expected["b"] - expected["a"], rel=1e-12)
    assert got["worst_group_perplexity", "b"] == pytest.approx(expected["b"], rel=1e-12)


def test_perplexity_is_of_a_groups_tokens():
    law_perplexity_is_of_a_groups_tokens()


def test_mutant_mean_of_the_texts_perplexities(monkeypatch):
    counted = counting._with_tokens
    monkeypatch.setattr(perplexity, "mean", lambda total, number: mean(total, number).log())
    monkeypatch.setattr(
        counting,
        "_with_tokens",
        lambda counts, group, loss, tokens, sizes: counted(counts, group, loss.exp(), torch.ones_like(tokens), sizes),
    )
    with pytest.raises(AssertionError):
        law_perplexity_is_of_a_groups_tokens()


def test_mutant_every_text_weighs_the_same(monkeypatch):
    counted = counting._with_tokens
    monkeypatch.setattr(
        counting,
        "_with_tokens",
        lambda counts, group, loss, tokens, sizes: counted(counts, group, loss, (tokens > 0).long(), sizes),
    )
    with pytest.raises(AssertionError):
        law_perplexity_is_of_a_groups_tokens()


def test_mutant_the_last_batch_alone(monkeypatch):
    monkeypatch.setattr(Counts, "__add__", lambda self, other: other)
    with pytest.raises(AssertionError):
        law_perplexity_is_of_a_groups_tokens()


def test_tokens_beside_labels_add_perplexities_and_change_nothing_else():
    group, label, pred = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1])
    loss, tokens = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2, 6])
    plain, worded = (figures(count(NAMES, 2, group, label, pred, loss, given)) for given in (None, tokens))
    assert {metric for metric, _ in set(worded) - set(plain)} == TOKEN_METRICS - LOSS_METRICS
    assert {key: worded[key] for key in plain} == pytest.approx(plain, nan_ok=True)
    assert worded["perplexity", "Male"] == pytest.approx(math.exp((2 * 2 + 3 * 6) / 8))
