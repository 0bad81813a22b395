"""Aggregations of rates against plain Python, with NaN, ties and a single group."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dplit.fairness.metrics import aggregations
from dplit.fairness.metrics.aggregations import by_group, by_group_if_binary, difference, largest, overall, smallest
from dplit.fairness.metrics.catalogue import SUMMARY
from dplit.fairness.metrics.counts import Counts, count
from tests.fairness.metrics.cases import LAW, NAMES, counted, figures, same

value = st.one_of(st.just(math.nan), st.integers(0, 3).map(float))
tables = st.integers(1, 3).flatmap(
    lambda columns: st.lists(st.lists(value, min_size=columns, max_size=columns), min_size=4, max_size=4)
)


def law_aggregations_are_those_of_plain_python():
    @LAW
    @given(tables)
    def law(rows):
        rates, counts = (lambda counts: torch.tensor(rows, dtype=torch.float64)), Counts.none(NAMES)
        defined = [[value for value in row if not math.isnan(value)] for row in rows]
        means = {name: sum(row) / len(row) if row else math.nan for name, row in zip(NAMES, defined, strict=True)}
        got = by_group(rates, counts)
        assert all(same(got[name], means[name]) for name in NAMES)
        spans = []
        for column in zip(*rows, strict=True):
            known = [value for value in column if not math.isnan(value)]
            spans += [max(known) - min(known)] if len(known) >= 2 else []
        assert same(difference(rates, counts)[""], max(spans, default=math.nan))
        known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
        for aggregate, best in ((smallest, min), (largest, max)):
            ((name, extreme),) = aggregate(rates, counts).items()
            assert same(extreme, best(known.values(), default=math.nan))
            assert name == next((name for name, mean in known.items() if mean == extreme), "")

    law()


def test_aggregations_are_those_of_plain_python():
    law_aggregations_are_those_of_plain_python()


def zero_for_nan(rates, counts):
    values = rates(counts).nan_to_num(nan=0.0)
    return {"": float((values.amax(0) - values.amin(0)).max())}


def test_mutant_missing_as_zero(monkeypatch):
    monkeypatch.setitem(globals(), "difference", zero_for_nan)
    with pytest.raises(AssertionError):
        law_aggregations_are_those_of_plain_python()


def test_mutant_last_of_equals(monkeypatch):
    def last(rates, counts, extreme):
        known = {name: rate for name, rate in reversed(by_group(rates, counts).items()) if not math.isnan(rate)}
        value = extreme(known.values(), default=math.nan)
        return {next((name for name, rate in known.items() if rate == value), ""): value}

    monkeypatch.setattr(aggregations, "_extreme", last)
    with pytest.raises(AssertionError):
        law_aggregations_are_those_of_plain_python()


def test_overall_is_of_all_examples_as_one_group():
    group, ids = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 1, 1])
    sizes = lambda counts: counts.cells.sum((1, 2)).double()[:, None]  # noqa: E731
    assert overall(sizes, counted(2, group, ids, ids)) == {"": 4.0}


def test_one_number_of_each_group_needs_two_classes():
    one = lambda counts: torch.ones(len(counts.groups), 1).double()  # noqa: E731
    assert by_group_if_binary(one, Counts.none(NAMES, 2)) == dict.fromkeys(NAMES, 1.0)
    assert all(math.isnan(value) for value in by_group_if_binary(one, Counts.none(NAMES, 3)).values())


def test_one_group_has_nothing_to_differ_from():
    ids = torch.ones(5, dtype=torch.int64)
    got = figures(count(("only",), 2, torch.zeros(5, dtype=torch.int64), ids, ids))
    gaps = [metric for metric in SUMMARY if metric.endswith(("difference", "gap")) and "perplexity" not in metric]
    assert all(math.isnan(got[metric, ""]) for metric in gaps)
    assert got["worst_group_accuracy", "only"] == 1.0
