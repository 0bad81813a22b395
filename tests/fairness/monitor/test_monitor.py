"""The callback inside real, tiny fits."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import MetricFrame, demographic_parity_difference
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import accuracy_score

from dplit.errors import ConfigurationError
from dplit.fairness import FairnessMonitor
from dplit.fairness.metrics import catalogue, counts
from dplit.fairness.metrics.counts import Counts
from dplit.protocols import ReleasesFigures
from tests.fairness.fairness_project import NAMES, Model, Paid, Project, make_private, refusal

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]
PER_GROUP = tuple(metric for metric in catalogue.PER_GROUP if "perplexity" not in metric)
SUMMARY = tuple(metric for metric in catalogue.SUMMARY if "perplexity" not in metric)


def read(tmp_path, name="fairness.csv"):
    return pd.read_csv(tmp_path / name, keep_default_na=False, na_values={"value": ["nan"], "epsilon": [""]})


def values(frame, epoch=1):
    rows = frame[frame.epoch == epoch]
    return dict(zip(zip(rows.metric, rows.group, strict=True), rows.value, strict=True))


def fitted(trainer, model=None, project=None, **options):
    monitor = FairnessMonitor(**{"table": False, **options})
    run = trainer(monitor)
    run.fit(model or Model(), datamodule=project or Project())
    return run, monitor


# ---- the numbers


def law_file_equals_fairlearn(trainer, tmp_path, batch_size, classes=2):
    """After fit, the last epoch's rows are fairlearn's figures of the whole split."""
    run, _ = fitted(trainer, Model(classes), Project(batch_size, classes=classes))
    records = Project(batch_size, classes=classes).val_dataloader().dataset
    pred = run.model.layer(records.x).argmax(1).numpy()
    label, group = records.y.numpy(), np.array(NAMES)[records.group]
    frame = MetricFrame(metrics=accuracy_score, y_true=label, y_pred=pred, sensitive_features=group)
    got = values(read(tmp_path))
    assert {name: got["n", name] for name in NAMES} == {"Female": 45, "Male": 15, "Other": 0}
    assert {name: got["accuracy", name] for name in frame.by_group.index} == pytest.approx(frame.by_group.to_dict())
    assert got["accuracy_gap", ""] == pytest.approx(frame.difference())
    assert got["worst_group_accuracy", frame.by_group.idxmin()] == pytest.approx(frame.group_min())
    assert all(math.isnan(got[metric, "Other"]) for metric in PER_GROUP if metric != "n")
    if classes == 2:
        theirs = demographic_parity_difference(label, pred, sensitive_features=group)
        assert got["demographic_parity_difference", ""] == pytest.approx(theirs)


@pytest.mark.parametrize(("batch_size", "classes"), [(7, 2), (60, 2), (16, 4)])
def test_file_equals_fairlearn(trainer, tmp_path, batch_size, classes):
    law_file_equals_fairlearn(trainer, tmp_path, batch_size, classes)


def test_mutant_groups_renumbered_by_presence(trainer, tmp_path, monkeypatch):
    index = counts._cell_index

    def packed(group, *rest):
        return index(torch.unique(group, return_inverse=True)[1], *rest)

    monkeypatch.setattr(counts, "_cell_index", packed)
    with pytest.raises(AssertionError):
        law_file_equals_fairlearn(trainer, tmp_path, 7)


def test_mutant_only_the_last_batch(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(Counts, "__add__", lambda self, other: other)
    with pytest.raises(AssertionError):
        law_file_equals_fairlearn(trainer, tmp_path, 7)


def test_batches_change_nothing(trainer, tmp_path):
    fitted(trainer, project=Project(7))
    fitted(trainer, project=Project(60), filename="whole.csv")
    pieces, whole = read(tmp_path), read(tmp_path, "whole.csv")
    pd.testing.assert_frame_equal(pieces, whole, rtol=1e-6)


def test_sanity_checking_is_not_counted(trainer, tmp_path):
    fitted(trainer)
    frame = read(tmp_path)
    assert set(frame.epoch) == {0, 1}
    assert values(frame, 0)["n", "Female"] == 45


# ---- where they go


def test_scalars_are_logged(trainer):
    run, monitor = fitted(trainer)
    logged = {key for key in run.callback_metrics if key.startswith("fairness/")}
    assert logged == {f"fairness/{m}" for m in SUMMARY} | {f"fairness/{name}/accuracy" for name in NAMES}
    assert logged <= set(monitor.released_without_charge())
    assert torch.isnan(run.callback_metrics["fairness/Other/accuracy"])


def test_logger_and_run_directory(trainer, tmp_path):
    run = trainer(FairnessMonitor(table=False), logger=CSVLogger(tmp_path, name="runs"))
    run.fit(Model(), datamodule=Project())
    directory = tmp_path / "runs" / "version_0"
    assert (directory / "fairness.csv").exists()
    assert (directory / "fairness.png").exists()
    assert "fairness/accuracy_gap" in pd.read_csv(directory / "metrics.csv").columns


def test_test_split_is_appended(trainer, tmp_path):
    run, monitor = fitted(trainer)
    (found,) = run.test(run.model, datamodule=Project(), verbose=False)
    frame = read(tmp_path)
    assert list(frame.split.unique()) == ["validation", "test"]
    assert found["test_fairness/accuracy_gap"] == pytest.approx(
        values(frame[frame.split == "test"], 2)["accuracy_gap", ""]
    )
    assert "test_fairness/accuracy_gap" in monitor.released_without_charge()
    assert not (tmp_path / "fairness-1.csv").exists()


def test_validate_alone(trainer, tmp_path):
    trainer(FairnessMonitor(table=False)).validate(Model(), datamodule=Project(), verbose=False)
    assert set(read(tmp_path).split) == {"validation"}
    assert not (tmp_path / "fairness.png").exists()


def test_several_loaders_have_a_table_each(trainer, tmp_path):
    run, _ = fitted(trainer, project=Project(loaders=2))
    assert set(read(tmp_path).split) == {"validation/0", "validation/1"}
    assert {"fairness/accuracy_gap/dataloader_idx_0", "fairness/accuracy_gap/dataloader_idx_1"} <= set(
        run.callback_metrics
    )
    assert (tmp_path / "fairness.png").exists()
    assert (tmp_path / "fairness.1.png").exists()


def test_a_trial_run_leaves_no_file(trainer, tmp_path):
    trainer(FairnessMonitor(table=False), fast_dev_run=True).fit(Model(), datamodule=Project())
    assert list(tmp_path.glob("fairness*")) == []


def test_two_attributes_two_names(trainer, tmp_path):
    second = FairnessMonitor(
        group=lambda batch: (batch["x"][:, 0] > 0).long(), groups=["low", "high"], filename="side.csv", table=False
    )
    run = trainer(FairnessMonitor(table=False), second)
    run.fit(Model(), datamodule=Project())
    assert set(read(tmp_path, "side.csv").group) == {"", "low", "high"}
    assert "side/low/accuracy" in run.callback_metrics
    with pytest.raises(ConfigurationError, match="two monitors"):
        trainer(FairnessMonitor(), FairnessMonitor()).fit(Model(), datamodule=Project())


# ---- epsilon


class Private(Model):
    """Gives the trainer's strategy what a private one has."""

    def __init__(self, paid):
        super().__init__()
        self.paid = paid

    def setup(self, stage):
        make_private(self.trainer.strategy, spent=lambda: self.paid)


def test_epsilon_is_written(trainer, tmp_path):
    fitted(trainer, Private(Paid(1.5, 1e-5, {"Female": 1.5, "Male": 0.7, "Other": 0.2})))
    frame = read(tmp_path)
    assert set(frame.epsilon) == {1.5}
    assert set(frame.delta.astype(float)) == {1e-5}
    assert values(frame)["epsilon", "Male"] == 0.7


def test_only_the_headline_where_groups_have_none(trainer, tmp_path):
    fitted(trainer, Private(Paid(1.5, 1e-5, None)))
    assert "epsilon" not in set(read(tmp_path).metric)


# ---- the terminal


def test_only_rank_zero_prints_and_writes(trainer, tmp_path, capsys, monkeypatch):
    run = trainer(FairnessMonitor())
    monkeypatch.setattr(type(run), "is_global_zero", False)
    run.fit(Model(), datamodule=Project())
    assert "not private" not in capsys.readouterr().out
    assert list(tmp_path.glob("fairness*")) == []


# ---- the picture


# ---- refusals


def refused(trainer, model, error=ConfigurationError, **options):
    with pytest.raises(error) as caught:
        fitted(trainer, model, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_undeclared_group_is_refused(trainer):
    assert "outside the declared list of 1" in refused(trainer, Model(), groups=["Female"])


@pytest.mark.parametrize(
    "options", [{"release": "free"}, {"filename": "a/b.csv"}, {"filename": ""}, {"filename": "fairness.png"}]
)
def test_arguments_out_of_range(options):
    with pytest.raises(ConfigurationError):
        FairnessMonitor(**options)


# ---- figures that steer the model


class Plateau(Model):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "fairness/accuracy_gap"}}


def law_uncharged_figures_steer_nothing(trainer, tmp_path):
    watchers = [
        EarlyStopping("fairness/accuracy_gap"),
        ModelCheckpoint(tmp_path, monitor="fairness/worst_group_accuracy"),
    ]
    for watcher in watchers:
        run = trainer(FairnessMonitor(table=False), watcher, enable_checkpointing=isinstance(watcher, ModelCheckpoint))
        message = refusal(partial(run.fit, Model(), datamodule=Project()))
        assert f"{type(watcher).__name__} watches fairness/" in message
        assert "\n" not in message
    run = trainer(FairnessMonitor(table=False))
    message = refusal(partial(run.fit, Plateau(), datamodule=Project()))
    assert "ReduceLROnPlateau watches fairness/accuracy_gap" in message


def test_uncharged_figures_steer_nothing(trainer, tmp_path):
    law_uncharged_figures_steer_nothing(trainer, tmp_path)


def test_mutant_watchers_unseen(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("dplit.fairness.monitor.monitor.watchers", lambda trainer, prefix: [])
    with pytest.raises(AssertionError):
        law_uncharged_figures_steer_nothing(trainer, tmp_path)


@pytest.mark.parametrize("options", [{"release": "public"}, {"allow_monitoring": True}])
def test_free_or_allowed_figures_may_steer(trainer, options):
    watcher = EarlyStopping("fairness/accuracy_gap", check_finite=False)
    monitor = FairnessMonitor(table=False, **options)
    trainer(monitor, watcher).fit(Model(), datamodule=Project())
    said = "EarlyStopping watches fairness/accuracy_gap" in monitor.released_without_charge()
    assert said == (monitor.release == "flagged")


def test_a_monitor_speaks_for_what_it_logs(trainer):
    run, monitor = fitted(trainer)
    run.test(run.model, datamodule=Project(), verbose=False)
    assert all(monitor.speaks_for(key) for key in monitor.logged_keys)
    assert not any(
        monitor.speaks_for(name) for name in ("val/loss", "fairness", "side/accuracy_gap", "train_fairness/x")
    )


def test_public_figures_are_not_listed(trainer):
    _, monitor = fitted(trainer, release="public")
    assert monitor.released_without_charge() == []


def test_what_left_is_listed(trainer):
    monitor = FairnessMonitor(table=False)
    assert isinstance(monitor, ReleasesFigures)
    assert monitor.released_without_charge() == []
    trainer(monitor).fit(Model(), datamodule=Project())
    listed = monitor.released_without_charge()
    assert "fairness/accuracy_gap" in listed
    assert any(line.startswith("fairness.csv (n, selection_rate") for line in listed)
    assert any(line.startswith("fairness.png") for line in listed)


def test_prediction_needs_no_groups(trainer):
    class Predicting(LightningModule):
        def predict_step(self, batch, batch_idx):
            return batch["x"]

    trainer(FairnessMonitor()).predict(Predicting(), Project().val_dataloader())
