"""A snapshot gives out its figures by name."""

from __future__ import annotations

import math

import pytest

from dplit.fairness.metrics.metric import Row
from dplit.fairness.monitor.snapshot import Snapshot

ROWS = (
    Row("loss", "a", 1.0),
    Row("loss", "b", math.nan),
    Row("n", "a", 3.0),
    Row("n", "b", 0.0),
    Row("perplexity", "a", math.nan),
    Row("perplexity", "b", math.nan),
    Row("worst_group_loss", "a", 1.0),
    Row("loss_gap", "", math.nan),
)
SHOT = Snapshot(2, 30, "test/1", ("a", "b"), ROWS, 1.5, 1e-5, {"a": 0.5})


def test_figures_by_name():
    assert SHOT.value("loss", "a") == 1.0
    assert SHOT.value("n", "b") == 0.0
    assert all(math.isnan(SHOT.value(*key)) for key in (("loss", "b"), ("loss", "c"), ("accuracy", "a"), ("loss_gap",)))
    assert SHOT.summary("worst_group_loss") == Row("worst_group_loss", "a", 1.0)
    with pytest.raises(KeyError):
        SHOT.summary("worst_group_accuracy")


def test_what_there_is_and_what_is_defined():
    assert SHOT.metrics == ("loss", "n", "perplexity", "worst_group_loss", "loss_gap")
    assert SHOT.per_group == ("n", "loss", "perplexity")
    assert [metric for metric in SHOT.metrics if SHOT.is_defined(metric)] == ["loss", "n", "worst_group_loss"]


def test_the_quality_is_the_preferred_one_that_is_there():
    assert SHOT.quality == "perplexity"
    assert Snapshot(0, 0, "test", ("a",), (Row("loss", "a", 1.0), Row("accuracy", "a", 0.5))).quality == "accuracy"
    assert Snapshot(0, 0, "test", ("a",), ()).quality == "accuracy"


def test_lines_have_every_row_and_the_epsilon_of_each_group():
    lines = list(SHOT.lines())
    assert len(lines) == len(ROWS) + 1
    assert lines[0] == (2, 30, 1.5, 1e-5, "test/1", "a", "loss", 1.0)
    assert lines[-1] == (2, 30, 1.5, 1e-5, "test/1", "a", "epsilon", 0.5)
