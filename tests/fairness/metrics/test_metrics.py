"""What every metric passes by being there, and the figures of predictions against fairlearn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fairlearn.metrics import (
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
    true_positive_rate,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from dplit import fairness
from dplit.fairness.metrics import accuracy, equalized_odds, rates, selection_rate
from dplit.fairness.metrics import counts as counting
from dplit.fairness.metrics.catalogue import METRICS
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.metrics.metric import Section
from dplit.predictions import NO_CLASS
from tests.fairness.metrics.cases import (
    LAW,
    NAMES,
    RATES,
    counted,
    examples,
    figures,
    fpr_difference,
    having,
    large_and_absent,
    noisy,
    oracle_difference,
    oracle_rates,
    packed,
    same,
)

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


# ---- every metric, also one that is added as a file


def with_all(names, c, group, label, pred):
    """Counts of examples with labels, losses and tokens, some of them 0; loss and tokens follow from the example."""
    loss = 0.5 + 0.25 * group + 0.125 * label + 0.0625 * pred
    return count(names, c, group, label, pred, loss.double(), (group + 2 * label + pred) % 5)


def with_loss_alone(names, c, group, label, pred):
    loss = 0.5 + 0.25 * group + 0.125 * label + 0.0625 * pred
    return count(names, 2, group, None, None, loss.double(), (group + 2 * label + pred) % 5)


KINDS = (with_all, with_loss_alone)


def same_values(left, right):
    return left.keys() == right.keys() and all(same(value, right[name]) for name, value in left.items())


def law_the_section_says_whose_values_there_are(metric):
    @LAW
    @given(examples())
    def law(drawn):
        for kind in KINDS:
            counts = kind(NAMES, *drawn)
            if metric.needs(counts):
                values = metric.values(counts)
                if metric.section is Section.BY_GROUP:
                    assert list(values) == list(NAMES)
                else:
                    assert set(values) <= {"", *NAMES}
                    assert metric.value(counts) is next(iter(values.values())) or same(
                        metric.value(counts), *values.values()
                    )
                assert all(isinstance(value, float) for value in values.values())

    law()


def law_what_is_not_defined_is_nan(metric):
    """Of no examples nothing is defined, and of an absent group nothing; only a size is, and it is 0."""
    nothing = Counts.none(NAMES)
    present = torch.tensor([0, 0, 2, 2])
    some = with_all(NAMES, 2, present, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 0]))
    sizes = metric.name == "n"
    for value in metric.values(nothing).values():
        assert value == 0 if sizes else math.isnan(value)
    if metric.section is Section.BY_GROUP:
        for name in ("b", "d"):
            assert metric.values(some)[name] == 0 if sizes else math.isnan(metric.values(some)[name])


def law_the_order_of_records_changes_nothing(metric):
    @LAW
    @given(examples(), st.randoms())
    def law(drawn, random):
        c, *columns = drawn
        order = list(range(len(columns[0])))
        random.shuffle(order)
        for kind in KINDS:
            counts, shuffled = kind(NAMES, c, *columns), kind(NAMES, c, *(column[order] for column in columns))
            if metric.needs(counts):
                assert same_values(metric.values(counts), metric.values(shuffled))

    law()


def law_the_order_of_groups_changes_nothing(metric):
    """The same records under the same names, declared in another order; of equals the first declared is worst."""

    @LAW
    @given(examples(), st.permutations(range(len(NAMES))))
    def law(drawn, order):
        c, group, *columns = drawn
        names, moved = [NAMES[k] for k in order], torch.tensor([order.index(k) for k in range(len(NAMES))])[group]
        for kind in KINDS:
            counts = kind(NAMES, c, group, *columns)
            other = replace(counts, groups=tuple(names)).mapped(lambda sums: sums[list(order)])
            assert torch.equal(count(names, c, moved, *columns).cells, other.cells) or kind is not with_all
            if not metric.needs(counts):
                continue
            if metric.section is Section.WORST_GROUP:
                assert same(metric.value(counts), metric.value(other))
            else:
                assert same_values(metric.values(counts), metric.values(other))

    law()


def law_two_halves_add_up_to_the_whole(metric):
    @LAW
    @given(examples(), st.integers(0, 40))
    def law(drawn, cut):
        c, *columns = drawn
        for kind in KINDS:
            whole = kind(NAMES, c, *columns)
            parts = [kind(NAMES, c, *(column[piece] for column in columns)) for piece in (slice(cut), slice(cut, None))]
            if metric.needs(whole):
                assert same_values(metric.values(parts[0] + parts[1]), metric.values(whole))

    law()


def law_what_is_lost_in_the_noise_is_nan(metric):
    if metric.section is Section.BY_GROUP:
        for c in (2, 10):
            exact = large_and_absent(c)
            for seed in range(20):
                values = metric.values(noisy(exact, seed))
                assert all(math.isnan(values[name]) for name in ("c", "d"))


CONTRACT = [
    law_the_section_says_whose_values_there_are,
    law_what_is_not_defined_is_nan,
    law_the_order_of_records_changes_nothing,
    law_the_order_of_groups_changes_nothing,
    law_two_halves_add_up_to_the_whole,
    law_what_is_lost_in_the_noise_is_nan,
]


@every_metric
@pytest.mark.parametrize("law", CONTRACT, ids=lambda law: law.__name__)
def test_contract(metric, law):
    law(metric)


def breaking(name):
    """Metrics that break a law: undefined as 0, groups by position, and what the first example's group has."""
    metric = next(metric for metric in METRICS if metric.name == "accuracy")
    position = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
    return {
        "zero": replace(metric, rates=lambda counts: metric.rates(counts).nan_to_num(nan=0.0)),
        "position": replace(metric, rates=lambda counts: metric.rates(counts) * position),
        "value": replace(metric, section=Section.GAP),
    }[name]


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("zero", law_what_is_not_defined_is_nan),
        ("zero", law_what_is_lost_in_the_noise_is_nan),
        ("position", law_the_order_of_groups_changes_nothing),
    ],
)
def test_mutant_metric(name, law):
    with pytest.raises(AssertionError):
        law(breaking(name))


def test_mutant_a_summary_of_several_values():
    with pytest.raises(ValueError, match="too many values"):
        law_the_section_says_whose_values_there_are(breaking("value"))


def test_mutant_the_last_batch_alone(monkeypatch):
    monkeypatch.setattr(Counts, "__add__", lambda self, other: other)
    with pytest.raises(AssertionError):
        law_two_halves_add_up_to_the_whole(METRICS[0])


# ---- fairlearn


def law_rates_equal_fairlearn():
    @LAW
    @given(examples())
    def law(drawn):
        c, group, label, pred = drawn
        got, arrays = figures(counted(*drawn)), (group.numpy(), label.numpy(), pred.numpy())
        theirs = {rate: oracle_rates(rate, c, *arrays) for rate in RATES if c == 2 or rate != "selection_rate"}
        for g, name in enumerate(NAMES):
            mine = arrays[0] == g
            assert got["n", name] == mine.sum()
            accuracy = accuracy_score(arrays[1][mine], arrays[2][mine]) if mine.any() else math.nan
            assert same(got["accuracy", name], accuracy)
            assert all(same(got[rate, name], theirs[rate].get(g, math.nan)) for rate in theirs)

    law()


def law_differences_equal_fairlearn():
    @LAW
    @given(examples())
    def law(drawn):
        c, group, label, pred = drawn
        got, arrays = counted(*drawn), (group.numpy(), label.numpy(), pred.numpy())
        parity = oracle_difference(demographic_parity_difference, "selection_rate", c, *arrays)
        opportunity = oracle_difference(equal_opportunity_difference, "tpr", c, *arrays)
        false = oracle_difference(fpr_difference, "fpr", c, *arrays)
        assert same(fairness.demographic_parity_difference(got), parity)
        assert same(fairness.equal_opportunity_difference(got), opportunity)
        assert same(fairness.equalized_odds_difference(got), np.fmax(opportunity, false))

    law()


def law_odds_equal_fairlearn_where_all_is_defined():
    @LAW
    @given(examples(most_classes=2, smallest=8, least=0))
    def law(drawn):
        _, group, label, pred = (part if isinstance(part, int) else part.numpy() for part in drawn)
        if having("tpr", group, label, 1) == having("fpr", group, label, 1) and len(set(group)) > 1:
            theirs = equalized_odds_difference(label, pred, sensitive_features=group)
            assert same(fairness.equalized_odds_difference(counted(*drawn)), theirs)

    law()


LAWS = [
    law_rates_equal_fairlearn,
    law_differences_equal_fairlearn,
    law_odds_equal_fairlearn_where_all_is_defined,
]


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law()


def test_mutant_groups_renumbered_by_presence(monkeypatch):
    monkeypatch.setattr(counting, "_cell_index", packed)
    with pytest.raises(AssertionError):
        law_rates_equal_fairlearn()


def test_mutant_empty_rates_as_zero(monkeypatch):
    for module in (accuracy, equalized_odds, selection_rate):
        monkeypatch.setattr(module, "fraction", lambda *given: rates.fraction(*given).nan_to_num(nan=0.0))
    with pytest.raises(AssertionError):
        law_differences_equal_fairlearn()


def law_a_model_that_predicts_nothing_is_right_about_none(c):
    group, label = torch.arange(12) % 4, torch.arange(12) % c
    got = figures(counted(c, group, label, torch.full_like(label, NO_CLASS)))
    assert {got["n", name] for name in NAMES} == {3}
    assert {value for (metric, _), value in got.items() if "accuracy" in metric and "gap" not in metric} == {0.0}
    rates = [value for (metric, _), value in got.items() if metric in ("selection_rate", "tpr", "fpr")]
    assert all(value == 0 or math.isnan(value) for value in rates)


@pytest.mark.parametrize("c", [2, 3])
def test_a_model_that_predicts_nothing_is_right_about_none(c):
    law_a_model_that_predicts_nothing_is_right_about_none(c)


@pytest.mark.parametrize(
    "law", [law_rates_equal_fairlearn, lambda: law_a_model_that_predicts_nothing_is_right_about_none(2)]
)
def test_mutant_no_prediction_counts_as_class_0(monkeypatch, law):
    cell_index = counting._cell_index
    as_0 = lambda group, label, column, c: cell_index(group, label, column.masked_fill(column == c, 0), c)  # noqa: E731
    monkeypatch.setattr(counting, "_cell_index", as_0)
    with pytest.raises(AssertionError):
        law()


def test_mutant_examples_without_a_prediction_left_out(monkeypatch):
    left_out = lambda counts: counts.cells.sum(2).double()  # noqa: E731
    for module in (rates, equalized_odds):
        monkeypatch.setattr(module, "label_totals", left_out)
    with pytest.raises(AssertionError):
        law_rates_equal_fairlearn()


def test_mutant_label_and_prediction_swapped(monkeypatch):
    cell_index = counting._cell_index
    monkeypatch.setattr(counting, "_cell_index", lambda group, label, pred, c: cell_index(group, pred, label, c))
    with pytest.raises(AssertionError):
        law_rates_equal_fairlearn()


def test_fairlearn_calls_the_tpr_of_a_group_without_positives_zero():
    assert true_positive_rate([0, 0], [1, 0], pos_label=1) == 0.0  # the reason for the restriction in the oracle
