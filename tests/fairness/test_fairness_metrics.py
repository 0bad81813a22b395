"""Figures against fairlearn, and what must hold where groups are absent or drowned in noise."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from dplit import fairness
from dplit.errors import ConfigurationError
from dplit.fairness.metrics import counts as counting
from dplit.fairness.metrics import rates as metrics
from dplit.fairness.metrics.counts import MOST_CELLS, Counts, count
from dplit.fairness.metrics.rates import TABLE, table

NAMES = ("a", "b", "c", "d")
PER_GROUP = tuple(metric for metric in metrics.PER_GROUP if "perplexity" not in metric)
SUMMARY = tuple(metric for metric in metrics.SUMMARY if "perplexity" not in metric)
"""Perplexities come with tokens alone: test_fairness_losses.py."""
LAW = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # shrinking asks fairlearn a thousand times
)


@st.composite
def examples(draw, most_classes=4, smallest=0):
    """(C, group, label, pred) with some declared groups absent, often the first."""
    c = draw(st.integers(2, most_classes))
    present = draw(st.lists(st.integers(0, len(NAMES) - 1), min_size=1, max_size=len(NAMES), unique=True))
    one = st.tuples(st.sampled_from(present), st.integers(0, c - 1), st.integers(0, c - 1))
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
    @given(examples(most_classes=2, smallest=8))
    def law(drawn):
        _, group, label, pred = (part if isinstance(part, int) else part.numpy() for part in drawn)
        if having("tpr", group, label, 1) == having("fpr", group, label, 1) and len(set(group)) > 1:
            theirs = equalized_odds_difference(label, pred, sensitive_features=group)
            assert same(fairness.equalized_odds_difference(counted(*drawn)), theirs)

    law()


def law_batches_add_up():
    @LAW
    @given(examples(), st.integers(0, 40))
    def law(drawn, cut):
        c, *rest = drawn
        loss = torch.linspace(0, 1, len(rest[0]))
        whole = counted(c, *rest, loss)
        halves = [counted(c, *(part[piece] for part in rest), loss[piece]) for piece in (slice(cut), slice(cut, None))]
        added = halves[0] + halves[1]
        assert torch.equal(added.cells, whole.cells)
        assert torch.allclose(added.loss_sum, whole.loss_sum)
        assert torch.equal(added.loss_count, whole.loss_count)

    law()


def law_one_record_moves_one_count_by_one():
    @LAW
    @given(examples(smallest=1))
    def law(drawn):
        c, *rest = drawn
        moved = counted(c, *rest).cells - counted(c, *(part[:-1] for part in rest)).cells
        assert int(moved.abs().sum()) == 1
        assert int(moved[tuple(int(part[-1]) for part in rest)]) == 1

    law()


LAWS = [
    law_rates_equal_fairlearn,
    law_differences_equal_fairlearn,
    law_odds_equal_fairlearn_where_all_is_defined,
    law_batches_add_up,
    law_one_record_moves_one_count_by_one,
]


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law()


def packed(group, label, pred, classes):
    """The bug of torchmetrics 1.9: groups numbered by those that the batch happens to hold."""
    return (torch.unique(group, return_inverse=True)[1] * classes + label) * classes + pred


@pytest.mark.parametrize("law", [law_rates_equal_fairlearn, law_one_record_moves_one_count_by_one])
def test_mutant_groups_renumbered_by_presence(monkeypatch, law):
    monkeypatch.setattr(counting, "_cell", packed)
    with pytest.raises(AssertionError):
        law()


def test_mutant_groups_renumbered_in_one_batch_of_several(monkeypatch):
    monkeypatch.setattr(counting, "_cell", packed)
    with pytest.raises(AssertionError):
        law_batches_add_up()


def test_mutant_empty_rates_as_zero(monkeypatch):
    true_rate = metrics._rate
    monkeypatch.setattr(metrics, "_rate", lambda *given: true_rate(*given).nan_to_num(nan=0.0))
    with pytest.raises(AssertionError):
        law_differences_equal_fairlearn()


def test_mutant_label_and_prediction_swapped(monkeypatch):
    true_cell = counting._cell
    monkeypatch.setattr(counting, "_cell", lambda group, label, pred, c: true_cell(group, pred, label, c))
    with pytest.raises(AssertionError):
        law_rates_equal_fairlearn()


# ---- definitions at the edges


def test_fairlearn_calls_the_tpr_of_a_group_without_positives_zero():
    assert true_positive_rate([0, 0], [1, 0], pos_label=1) == 0.0  # the reason for the restriction in the oracle


def test_absent_group_and_group_without_positives():
    counts = counted(2, torch.tensor([0, 0, 2, 2]), torch.tensor([1, 0, 0, 0]), torch.tensor([1, 1, 0, 0]))
    got = figures(counts)
    assert got["n", "b"] == 0
    assert all(math.isnan(got[metric, "b"]) for metric in PER_GROUP if metric != "n")
    assert math.isnan(got["tpr", "c"])
    assert got["fpr", "c"] == 0.0
    assert math.isnan(fairness.equal_opportunity_difference(counts))  # one group has positives
    assert fairness.equalized_odds_difference(counts) == 1.0  # of the FPRs, which two groups have
    assert fairness.accuracy_gap(counts) == 0.5
    assert fairness.worst_group(counts) == "a"
    assert fairness.worst_group_accuracy(counts) == 0.5


def test_one_group_has_nothing_to_differ_from():
    got = figures(count(("only",), 2, torch.zeros(5, dtype=torch.int64), torch.ones(5).long(), torch.ones(5).long()))
    assert all(math.isnan(got[metric, ""]) for metric in SUMMARY if metric.endswith(("difference", "gap")))
    assert got["worst_group_accuracy", "only"] == 1.0


def test_nothing_at_all():
    counts = Counts.none(NAMES)
    got = figures(counts)
    assert all(math.isnan(value) for (metric, _), value in got.items() if metric != "n")
    assert fairness.worst_group(counts) is None


def test_ties_go_to_the_first_declared():
    counts = counted(2, torch.tensor([3, 1]), torch.tensor([1, 1]), torch.tensor([0, 0]))
    assert fairness.worst_group(counts) == "b"


def test_losses_are_means_per_group_and_overall():
    group, zeros = torch.tensor([0, 0, 3]), torch.zeros(3, dtype=torch.int64)
    counts = counted(2, group, zeros, zeros, torch.tensor([1.0, 2.0, 6.0])) + counted(2, group, zeros, zeros)
    got = figures(counts)
    assert (got["loss", "a"], got["loss", "d"], got["overall_loss", ""]) == (1.5, 6.0, 3.0)
    assert math.isnan(got["loss", "b"])


def test_selection_rate_of_many_classes_is_not_one_number():
    ids = torch.tensor([0, 1, 2])
    counts = counted(3, torch.tensor([0, 0, 1]), ids, ids)
    assert math.isnan(figures(counts)["selection_rate", "a"])
    assert fairness.demographic_parity_difference(counts) == 1.0


def test_wider_batches_widen_the_table():
    narrow = counted(2, torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    wide = counted(5, torch.tensor([1]), torch.tensor([4]), torch.tensor([0]))
    assert (narrow + wide).classes == (wide + narrow).classes == 5
    assert int((narrow + wide).cells.sum()) == 2
    assert int((narrow + wide).cells[0, 1, 1]) == 1


def test_every_metric_is_per_group_or_a_summary():
    rows = table(counted(2, torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 1])))
    assert {row.metric for row in rows} == set(PER_GROUP) | set(SUMMARY)
    assert set(TABLE) == set(metrics.PER_GROUP) | set(metrics.SUMMARY)
    for metric in PER_GROUP:
        assert [row.group for row in rows if row.metric == metric] == list(NAMES)
    for metric in SUMMARY:
        assert sum(row.metric == metric for row in rows) == 1


def test_a_new_metric_is_one_entry(monkeypatch):
    monkeypatch.setitem(TABLE, "tpr_worst", (metrics.tprs, metrics.worst))
    counts = counted(2, torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([1, 0]))
    assert metrics.Row("tpr_worst", "b", 0.0) in table(counts)


@pytest.mark.parametrize(
    ("group", "label", "pred", "loss", "says"),
    [
        ([4], [0], [0], None, "group id 4 lies outside 0..3"),
        ([0], [2], [0], None, "target id 2 lies outside 0..1"),
        ([0], [-100], [0], None, "target id -100"),
        ([0], [0], [7], None, "prediction id 7"),
        ([0, 1], [0], [0], None, "the batch has 2 examples"),
        ([0], [0], [0], [1.0, 2.0], "one loss per example"),
    ],
)
def test_refusals_are_one_line(group, label, pred, loss, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        counted(2, *map(torch.tensor, (group, label, pred)), None if loss is None else torch.tensor(loss))
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_not_a_set_of_classes():
    with pytest.raises(ConfigurationError, match=f"1 to {MOST_CELLS} counts"):
        Counts.none(NAMES, 50257)


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


def law_noise_hides_absent_groups_and_spares_large_ones():
    for c in (2, 10):
        exact = large_and_absent(c)
        for seed in range(20):
            got, truth = figures(noisy(exact, seed)), figures(exact)
            for name in ("a", "b"):
                assert got["accuracy", name] == pytest.approx(truth["accuracy", name], abs=0.05)
            for name in ("c", "d"):
                assert all(math.isnan(got[metric, name]) for metric in PER_GROUP)
            assert got["accuracy_gap", ""] == pytest.approx(truth["accuracy_gap", ""], abs=0.07)


def test_noise_hides_absent_groups_and_spares_large_ones():
    law_noise_hides_absent_groups_and_spares_large_ones()


def test_mutant_nothing_suppressed(monkeypatch):
    monkeypatch.setattr(metrics, "_known", lambda total, counts, cells: total > 0)
    with pytest.raises(AssertionError):
        law_noise_hides_absent_groups_and_spares_large_ones()


def test_mutant_cells_clamped_before_they_are_summed(monkeypatch):
    release = Counts.with_noisy_cells
    monkeypatch.setattr(Counts, "with_noisy_cells", lambda self, x, std: release(self, x.clamp_min(0), std))
    with pytest.raises(AssertionError):
        law_noise_hides_absent_groups_and_spares_large_ones()


def test_noisy_counts_carry_no_loss_and_rates_stay_in_range():
    counts = noisy(large_and_absent(2), 0)
    got = figures(counts)
    assert all(math.isnan(got["loss", name]) for name in NAMES)
    assert math.isnan(total(counts, "overall_loss"))
    extreme = counts.with_noisy_cells(torch.tensor([[[900.0, -80.0], [-90.0, 950.0]]] * 4), SIGMA)
    rates = [figures(extreme)[metric, "a"] for metric in ("accuracy", "tpr", "fpr", "selection_rate")]
    assert rates[:3] == [1.0, 1.0, 0.0]
    assert 0.0 <= rates[3] <= 1.0


# ---- cost


def test_counting_is_fast():
    n = 100_000
    group, label, pred = (torch.randint(size, (n,)) for size in (4, 10, 10))
    spans = []
    for _ in range(5):
        start = time.perf_counter()
        counted(10, group, label, pred, torch.rand(n))
        spans.append(time.perf_counter() - start)
    assert min(spans) < 0.050


def test_figures_need_torch_alone():
    code = (
        "import sys, dplit.fairness.metrics.rates; print([m for m in ('lightning', 'matplotlib', 'rich', 'pandas') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
