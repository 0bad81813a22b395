"""The monitor's MetricFrame is of the last evaluation, as it was released."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, selection_rate, true_positive_rate
from sklearn.metrics import accuracy_score

from dplit.errors import ConfigurationError
from dplit.fairness import FairnessMonitor
from tests.fairness.fairness_project import NAMES, Model, Project, Writer
from tests.fairness.monitor.test_monitor import fitted, read, values
from tests.fairness.monitor.test_release import SIGMA, Desk, run_noisy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def law_it_is_fairlearns_frame_of_the_split(trainer):
    run, monitor = fitted(trainer, project=Project(7))
    records = Project().val_dataloader().dataset
    theirs = MetricFrame(
        metrics={"accuracy": accuracy_score, "selection_rate": selection_rate, "tpr": true_positive_rate},
        y_true=records.y.numpy(),
        y_pred=run.model.layer(records.x).argmax(1).numpy(),
        sensitive_features=np.array(NAMES)[records.group],
    )
    ours = monitor.metric_frame()
    columns = list(theirs.by_group.columns)
    pd.testing.assert_frame_equal(ours.by_group[columns].loc[["Female", "Male"]], theirs.by_group, check_names=False)
    pd.testing.assert_series_equal(ours.overall[columns], theirs.overall)
    assert ours.by_group.loc["Other"].drop("n").isna().all()
    return run, monitor


def test_it_is_fairlearns_frame_of_the_split(trainer):
    law_it_is_fairlearns_frame_of_the_split(trainer)


def test_mutant_the_first_evaluation(trainer, monkeypatch):
    release = FairnessMonitor._release
    kept = {}
    first = lambda self, run, loader, split: kept.setdefault(split, release(self, run, loader, split))  # noqa: E731
    monkeypatch.setattr(FairnessMonitor, "_release", first)
    with pytest.raises(AssertionError):
        law_it_is_fairlearns_frame_of_the_split(trainer)


def test_noisy_frames_are_of_the_answers(trainer, tmp_path):
    """Nothing but the answer that was charged is in the frame, and asking for it charges nothing more."""
    _, desk, monitor = run_noisy(trainer, desk=Desk())
    frame, got = monitor.metric_frame(), values(read(tmp_path))
    assert len(desk.asked) == 2
    for metric in ("n", "accuracy", "tpr", "fpr", "selection_rate"):
        for name in NAMES:
            assert frame.by_group[metric][name] == pytest.approx(got[metric, name], abs=1e-12, nan_ok=True)
    exact = desk.asked[-1][0].sum((1, 2))
    assert frame.by_group["n"]["Female"] != float(exact[0])
    assert frame.by_group["n"]["Female"] == pytest.approx(float(exact[0]), abs=6 * 2 * SIGMA)
    assert frame.by_group.loc["Other"].isna().all()
    assert monitor.released_without_charge() == []


def test_flagged_frames_are_listed_and_public_ones_are_not(trainer):
    for release, listed in (("flagged", True), ("public", False)):
        _, monitor = fitted(trainer, release=release)
        before = monitor.released_without_charge()
        monitor.metric_frame()
        after = monitor.released_without_charge()
        assert [line for line in after if line not in before] == (
            ["MetricFrame of validation (counts by group, label and prediction)"] if listed else []
        )


def test_each_split_has_its_frame(trainer):
    run, monitor = fitted(trainer, project=Project(loaders=2))
    assert monitor.metric_frame("validation/1").by_group["n"]["Female"] == 45
    run.test(run.model, datamodule=Project(n=20), verbose=False)
    assert monitor.metric_frame("test").by_group["n"]["Female"] == 15
    with pytest.raises(ConfigurationError, match="evaluated are: validation/0, validation/1, test") as caught:
        monitor.metric_frame()
    assert "\n" not in str(caught.value)


def test_own_metrics(trainer):
    _, monitor = fitted(trainer)
    frame = monitor.metric_frame(metrics={"accuracy": accuracy_score})
    assert list(frame.by_group.columns) == ["accuracy"]


def test_before_an_evaluation_and_without_labels_it_is_refused(trainer):
    with pytest.raises(ConfigurationError, match="evaluated are: none"):
        FairnessMonitor().metric_frame()
    _, monitor = fitted(trainer, Writer())
    with pytest.raises(ConfigurationError, match="a loss alone"):
        monitor.metric_frame()
    assert not any("MetricFrame" in line for line in monitor.released_without_charge())


def test_a_new_fit_starts_without_frames(trainer):
    _, monitor = fitted(trainer)
    trainer(monitor, limit_val_batches=0).fit(Model(), datamodule=Project())
    with pytest.raises(ConfigurationError, match="evaluated are: none"):
        monitor.metric_frame()
