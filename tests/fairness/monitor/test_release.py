"""Noisy counts: what goes through the strategy, and what is refused because one record could move more than one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from dplit.errors import ConfigurationError
from dplit.fairness import FairnessMonitor
from dplit.fairness.metrics.counts import Counts
from dplit.fairness.monitor import release
from dplit.fairness.monitor.release import _why_not_once
from tests.fairness.fairness_project import NAMES, Model, Paid, Project, Records, make_private, refusal

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled"),
]
SIGMA = 20.0


class Desk:
    """A strategy's `release_statistic` and `spent`: adds noise, keeps what it was asked and charges each answer."""

    def __init__(self, noise=True):
        self.asked, self.draw, self.noise = [], torch.Generator().manual_seed(0), noise

    def release_statistic(self, value, *, sensitivity, noise_multiplier, split):
        self.asked.append((value.clone(), sensitivity, noise_multiplier, split))
        std = sensitivity * noise_multiplier * self.noise
        return value + std * torch.randn(value.shape, generator=self.draw, dtype=value.dtype)

    def spent(self):
        return Paid(0.1 * len(self.asked), 1e-6, None)


def run_noisy(trainer, model=None, project=None, desk=None, **options):
    desk = desk or Desk()
    fit_options = options.pop("fit", {})
    monitor = FairnessMonitor(**{"release": "noisy", "noise_multiplier": SIGMA, "table": False, **options})
    run = trainer(monitor, **fit_options)
    make_private(run.strategy, desk.spent, desk.release_statistic)
    run.fit(model or Model(), datamodule=project or Project(n=4000, batch_size=512))
    return run, desk, monitor


def law_one_charged_answer_an_epoch_and_nothing_else(trainer, tmp_path):
    """The strategy is asked for the exact counts once an epoch; the file holds its answers' figures and no loss."""
    run, desk, monitor = run_noisy(trainer, desk=Desk())
    frame = pd.read_csv(tmp_path / "fairness.csv", keep_default_na=False, na_values={"value": ["nan"]})
    assert [entry[1:] for entry in desk.asked] == [(1.0, SIGMA, "validation")] * 2
    assert all(entry[0].dtype == torch.float64 for entry in desk.asked)
    assert all(entry[0].sum((1, 2)).tolist() == [3000, 1000, 0] for entry in desk.asked)
    assert list(frame.epsilon.unique()) == [0.1, 0.2]  # read after the charge
    assert frame[frame.metric.str.contains("loss")].value.isna().all()
    exact = desk.asked[-1][0].sum((1, 2))
    last = frame[(frame.epoch == 1) & (frame.metric == "n")].set_index("group").value
    assert last["Female"] != exact[0]
    assert last["Female"] == pytest.approx(float(exact[0]), abs=6 * 2 * SIGMA)
    assert math.isnan(last["Other"])
    assert monitor.released_without_charge() == []
    assert math.isnan(run.callback_metrics["fairness/overall_loss"])


def test_one_charged_answer_an_epoch_and_nothing_else(trainer, tmp_path):
    law_one_charged_answer_an_epoch_and_nothing_else(trainer, tmp_path)


def test_mutant_losses_kept(trainer, tmp_path, monkeypatch):
    released = Counts.with_noisy_cells

    def keeping(self, *answer):
        noisy = released(self, *answer)
        return replace(noisy, loss_sum=self.loss_sum, loss_count=self.loss_count)

    monkeypatch.setattr(Counts, "with_noisy_cells", keeping)
    with pytest.raises(AssertionError):
        law_one_charged_answer_an_epoch_and_nothing_else(trainer, tmp_path)


def test_mutant_exact_counts_published(trainer, tmp_path, monkeypatch):
    asked = release.noised

    def leaking(trainer, counts, *rest):
        asked(trainer, counts, *rest)
        return counts

    monkeypatch.setattr("dplit.fairness.monitor.monitor.noised", leaking)
    with pytest.raises(AssertionError):
        law_one_charged_answer_an_epoch_and_nothing_else(trainer, tmp_path)


def test_figures_of_groups_under_the_noise_are_suppressed(trainer):
    run, _, _ = run_noisy(trainer, project=Project(n=200))
    figures = run.callback_metrics
    assert math.isnan(figures["fairness/Male/accuracy"])  # 50 examples, limit 3 · 20 · √4 = 120
    assert not math.isnan(figures["fairness/Female/accuracy"])  # 150 examples
    assert math.isnan(figures["fairness/accuracy_gap"])


def test_test_split_and_several_loaders_are_named(trainer):
    run, desk, _ = run_noisy(trainer, project=Project(n=200, loaders=2), fit={"max_epochs": 1})
    run.test(run.model, datamodule=Project(n=200), verbose=False)
    assert [entry[3] for entry in desk.asked] == ["validation/0", "validation/1", "test"]


def test_charged_figures_may_steer(trainer):
    desk = Desk()
    run = trainer(
        FairnessMonitor(release="noisy", noise_multiplier=SIGMA, table=False),
        EarlyStopping("fairness/accuracy_gap", check_finite=False),
    )
    make_private(run.strategy, release_statistic=desk.release_statistic)
    run.fit(Model(), datamodule=Project(n=4000))
    assert len(desk.asked) == 2


def test_strategy_must_be_able_to_charge(trainer):
    with pytest.raises(ConfigurationError, match="SingleDeviceStrategy has no release_statistic"):
        trainer(FairnessMonitor(release="noisy")).fit(Model(), datamodule=Project())


def test_an_exact_monitor_beside_a_noisy_one_is_refused_unless_it_is_said_so(trainer):
    exact = FairnessMonitor(filename="side.csv", table=False)

    def run(**options):
        monitor = FairnessMonitor(release="noisy", noise_multiplier=SIGMA, table=False, **options)
        made = trainer(monitor, exact)
        make_private(made.strategy, Desk().spent, Desk().release_statistic)
        made.fit(Model(), datamodule=Project(n=4000, batch_size=512))

    assert "side.csv would hold exact figures" in refusal(run)
    run(drop_exact=False)


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, math.nan, math.inf])
def test_noise_must_be_noise(trainer, noise_multiplier):
    with pytest.raises(ConfigurationError, match="positive and finite"):
        run_noisy(trainer, noise_multiplier=noise_multiplier)


class ByIds(Model):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"preds": self.layer(batch["x"]).argmax(1), "target": batch["y"]}


def test_number_of_classes_must_be_public(trainer):
    with pytest.raises(ConfigurationError, match="set classes="):
        run_noisy(trainer, ByIds())
    _, desk, _ = run_noisy(trainer, ByIds(), classes=5)
    assert desk.asked[0][0].shape == (len(NAMES), 5, 6)


# ---- sensitivity one


class Twice(Model):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        batch.update({key: torch.cat([value, value]) for key, value in batch.items()})
        return super().validation_step(batch, batch_idx)


class Cycled(LightningDataModule):
    groups = NAMES
    train_dataloader = Project.train_dataloader
    classes = 2

    def val_dataloader(self):
        loaders = [DataLoader(Records(n), batch_size=16) for n in (30, 60)]
        return CombinedLoader(loaders, "max_size_cycle")


class Unpaired(Model):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return super().validation_step(batch[0], batch_idx)


def law_one_record_moves_one_count(trainer):
    """Whatever could count a record twice, or let one push out another, is refused before anything is released."""
    attempts = [
        {"fit": {"limit_val_batches": 1}},
        {"fit": {"limit_val_batches": 0.5}},
        {"fit": {"fast_dev_run": True}},
        {"fit": {"overfit_batches": 1}},
        {"project": Project(drop_last=True)},
        {"project": Project(sampler=RandomSampler(range(60), replacement=True))},
        {"project": Project(sampler=DistributedSampler(range(60), 7, 0))},
        {"project": Cycled(), "model": Unpaired(), "group": lambda batch: batch[0]["group"]},
        {"model": Twice()},
    ]
    for options in attempts:
        desk = Desk()
        message = refusal(partial(run_noisy, trainer, desk=desk, **options))
        assert "\n" not in message
        assert desk.asked == []


def test_one_record_moves_one_count(trainer):
    law_one_record_moves_one_count(trainer)


@pytest.mark.parametrize("check", ["check_each_record_once", "check_no_more_than_records"])
def test_mutant_no_check(trainer, monkeypatch, check):
    monkeypatch.setattr(f"dplit.fairness.monitor.monitor.{check}", lambda *given: None)
    with pytest.raises(AssertionError):
        law_one_record_moves_one_count(trainer)


@pytest.mark.parametrize("sampler", [RandomSampler(range(60)), UnrepeatedDistributedSampler(range(60), 7, 0)])
def test_each_record_once_is_fine(trainer, sampler):
    _, desk, _ = run_noisy(trainer, project=Project(sampler=sampler))
    assert len(desk.asked) == 2


def test_reasons():
    class Odd(BatchSampler):
        drop_last = True

    data = Records(10)
    assert "is a list" in _why_not_once([])
    assert _why_not_once(DataLoader(data, batch_size=None)) == ""
    assert "drops its last batch" in _why_not_once(
        DataLoader(data, batch_sampler=Odd(SequentialSampler(data), 3, True))
    )
    assert "come from a list" in _why_not_once(DataLoader(data, batch_sampler=[[0], [0]]))
    assert "sampler is a RandomSampler" in _why_not_once(DataLoader(data, sampler=RandomSampler(data, num_samples=5)))
