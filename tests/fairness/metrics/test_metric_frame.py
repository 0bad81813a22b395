"""A MetricFrame of counts is fairlearn's MetricFrame of the records themselves."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from hypothesis import given
from sklearn.metrics import accuracy_score, f1_score

from dplit.errors import ConfigurationError
from dplit.fairness import Counts, count, metric_frame, table
from dplit.fairness.metrics import metric_frame as module
from tests.fairness.metrics.cases import LAW, NAMES, SIGMA, counted, examples, having, large_and_absent, noisy, same

THEIRS = {
    "accuracy": accuracy_score,
    "selection_rate": selection_rate,
    "tpr": true_positive_rate,
    "fpr": false_positive_rate,
}


def law_it_is_the_frame_of_the_records():
    """On the groups that have the rate: fairlearn calls 0/0 a 0, this frame NaN."""

    @LAW
    @given(examples(smallest=1, least=0))
    def law(drawn):
        c, *columns = drawn
        group, label, pred = (column.numpy() for column in columns)
        metrics = THEIRS if c == 2 else {"accuracy": accuracy_score}
        theirs = MetricFrame(metrics=metrics, y_true=label, y_pred=pred, sensitive_features=pd.Series(group))
        ours = metric_frame(counted(*drawn))
        assert list(ours.overall.index) == ["n", *metrics]
        assert list(ours.by_group.index) == list(NAMES)
        assert ours.overall["n"] == len(group)
        for g, name in enumerate(NAMES):
            assert ours.by_group["n"][name] == (group == g).sum()
        for rate in metrics:
            present = having(rate, group, label, 1)
            assert same(ours.overall[rate], theirs.overall[rate] if present else math.nan)
            for g, name in enumerate(NAMES):
                assert same(ours.by_group[rate][name], theirs.by_group[rate][g] if g in present else math.nan)

    law()


def test_it_is_the_frame_of_the_records():
    law_it_is_the_frame_of_the_records()


def test_mutant_labels_and_predictions_swapped(monkeypatch):
    ids = module._ids
    monkeypatch.setattr(module, "_ids", lambda counts: [ids(counts)[k] for k in (0, 2, 1)])
    with pytest.raises(AssertionError):
        law_it_is_the_frame_of_the_records()


def test_mutant_every_cell_weighs_the_same(monkeypatch):
    call = module._Rate.__call__
    same_weights = lambda self, t, p, *, sample_weight: call(self, t, p, sample_weight=1.0 * (sample_weight > 0))  # noqa: E731
    monkeypatch.setattr(module._Rate, "__call__", same_weights)
    with pytest.raises(AssertionError):
        law_it_is_the_frame_of_the_records()


def law_it_agrees_with_the_table(counts):
    frame = metric_frame(counts)
    got = {(row.metric, row.group): row.value for row in table(counts)}
    for metric in frame.by_group.columns:
        for name in counts.groups:
            ours, theirs = frame.by_group[metric][name], got[metric, name]
            assert (math.isnan(ours) and math.isnan(theirs)) or ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    overall = got["overall_accuracy", ""]
    assert (math.isnan(overall) and math.isnan(frame.overall["accuracy"])) or frame.overall[
        "accuracy"
    ] == pytest.approx(overall, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 10])
def test_what_is_lost_in_the_noise_is_nan_as_in_the_table(classes, seed):
    law_it_agrees_with_the_table(noisy(large_and_absent(classes), seed))


def test_mutant_nothing_suppressed(monkeypatch):
    monkeypatch.setattr(module, "_is_known", lambda weights, noise_std: True)
    with pytest.raises(AssertionError):
        law_it_agrees_with_the_table(noisy(large_and_absent(2), 0))


@pytest.mark.parametrize("excess", [-1.0, 1.0])
def test_a_rate_is_known_from_three_standard_deviations_of_its_own_denominator(excess):
    """Positives of group a: a sum of two cells; its limit is 3·σ·√2, that of the group 3·σ·√4."""
    positives = 3 * SIGMA * math.sqrt(2) + excess
    cells = torch.tensor([[[500.0, 100.0], [positives - 20.0, 20.0]]] * 4).double()
    frame = metric_frame(Counts.none(NAMES).with_noisy_cells(cells, SIGMA))
    assert math.isnan(frame.by_group["tpr"]["a"]) == (excess < 0)
    assert frame.by_group["fpr"]["a"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("classes", [2, 3])
def test_an_example_without_a_prediction_stays_among_those_of_its_label(classes):
    group, label = torch.arange(24) % 4, torch.arange(24) % classes
    pred = label.masked_fill(torch.arange(24) % 5 == 0, -1)
    law_it_agrees_with_the_table(counted(classes, group, label, pred))
    frame = metric_frame(counted(classes, group, label, pred), {"accuracy": accuracy_score})
    assert frame.overall["accuracy"] == pytest.approx(19 / 24)


def test_noisy_counts_below_0_weigh_nothing_in_given_metrics():
    cells = torch.tensor([[[900.0, 400.0], [-90.0, 950.0]]] * 4).double()
    frame = metric_frame(Counts.none(NAMES).with_noisy_cells(cells, SIGMA), {"accuracy": accuracy_score})
    assert frame.by_group["accuracy"]["a"] == pytest.approx(1850 / 2250)
    assert metric_frame(Counts.none(NAMES).with_noisy_cells(cells, SIGMA)).by_group["n"]["a"] == 2160


def test_own_metrics_and_fairlearns_tools_go_on_from_there():
    torch.manual_seed(0)
    group, label, pred = torch.randint(3, (200,)), torch.randint(2, (200,)), torch.randint(2, (200,))
    ours = metric_frame(count(NAMES, 2, group, label, pred), {"f1": f1_score, "accuracy": accuracy_score})
    theirs = MetricFrame(
        metrics={"f1": f1_score, "accuracy": accuracy_score},
        y_true=label.numpy(),
        y_pred=pred.numpy(),
        sensitive_features=np.array(NAMES)[group],
    )
    pd.testing.assert_series_equal(ours.overall, theirs.overall)
    pd.testing.assert_series_equal(ours.difference(), theirs.difference())
    pd.testing.assert_series_equal(ours.ratio(), theirs.ratio())
    pd.testing.assert_frame_equal(ours.by_group.loc[list("abc")], theirs.by_group, check_names=False)
    assert ours.by_group.loc["d"].isna().all()


def test_a_loss_alone_has_no_frame():
    with pytest.raises(ConfigurationError, match="of labels and predictions") as caught:
        metric_frame(count(NAMES, 2, torch.tensor([0]), None, None, torch.ones(1)))
    assert "\n" not in str(caught.value)


def test_fairlearn_loads_when_a_frame_is_made():
    code = (
        "import sys, dplit.fairness as f; before = 'fairlearn' in sys.modules; f.metric_frame(f.Counts.none(['a']));"
        "print(before, 'fairlearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
