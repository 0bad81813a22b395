"""Nothing decides by exact figures of private records unsaid (promise 29)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.spike import SpikeDetection

import dplit
from dplit.errors import PrivacyError
from dplit.fairness import FairnessMonitor
from dplit.training.outlets.steering import is_logged_by, split_of
from tests.training.outlets.evaluated import Evaluated, fit_evaluated

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Chooser(Callback):
    """One of a person's own."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor


class Scheduled(Evaluated):
    def __init__(self, name: str, plateau: bool = True) -> None:
        super().__init__()
        self.name, self.plateau = name, plateau

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        kinds = torch.optim.lr_scheduler
        scheduler = kinds.ReduceLROnPlateau(optimizer) if self.plateau else kinds.ConstantLR(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.name}}


def quiet_stop(name: str) -> EarlyStopping:
    return EarlyStopping(name, check_finite=False, patience=9)


WATCHERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "stopping": (lambda name: {"callbacks": [quiet_stop(name)]}, "EarlyStopping"),
    "checkpoint": (lambda name: {"callbacks": [ModelCheckpoint("kept", monitor=name)]}, "ModelCheckpoint"),
    "plateau": (lambda name: {"module": Scheduled(name)}, "ReduceLROnPlateau"),
    "own": (lambda name: {"callbacks": [Chooser(name)]}, "Chooser"),
    "own_list": (lambda name: {"callbacks": [Chooser(["x", name])]}, "Chooser"),
}
EXACT = ("train_loss", "val/loss", "val/late")


def stated() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("privacy.json").read_text())
    return found


def law_exact_figures_steer_nothing_unsaid(watcher: str, name: str) -> None:
    options, who = WATCHERS[watcher]
    strategy = dplit.DPStrategy()
    with pytest.raises(PrivacyError) as caught:
        fit_evaluated(strategy, **options(name))
    assert f"{who} watches" in str(caught.value)
    assert f"steered_by=['{'x' if watcher == 'own_list' else name}']" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert strategy.ledger.steps == 0


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("watcher", WATCHERS)
def test_exact_figures_steer_nothing_unsaid(watcher: str, name: str) -> None:
    law_exact_figures_steer_nothing_unsaid(watcher, name)


def test_mutant_watchers_unseen_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.outlets.steering.watchers_of", lambda trainer: [])
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        law_exact_figures_steer_nothing_unsaid("stopping", "val/loss")


@pytest.mark.parametrize("watcher", WATCHERS)
def test_what_is_accepted_is_stated(watcher: str) -> None:
    options, who = WATCHERS[watcher]
    fit_evaluated(dplit.DPStrategy(steered_by=["val/loss", "x"]), **options("val/loss"))
    line = f"the weights depend on val/loss: exact, uncharged ({who} watches val/loss)"
    assert line in stated()["steered_by"]
    assert line in Path("privacy.md").read_text()
    assert any(said.startswith("val/loss: exact") for said in stated()["released_without_charge"])


def test_what_is_accepted_and_not_seen_is_stated_too() -> None:
    fit_evaluated(dplit.DPStrategy(steered_by=["val/loss"]))
    assert stated()["steered_by"] == ["the weights depend on val/loss: exact, uncharged (steered_by says so)"]


def test_nothing_steers_where_nothing_watches() -> None:
    fit_evaluated(dplit.DPStrategy(), callbacks=[ModelCheckpoint("kept", save_last=True)])
    assert stated()["steered_by"] == []
    assert "beside the noisy gradients\n\n- nothing\n" in Path("privacy.md").read_text()


def test_spikes_of_the_loss_are_refused() -> None:
    with pytest.raises(PrivacyError, match="SpikeDetection watches loss"):
        fit_evaluated(dplit.DPStrategy(), callbacks=[SpikeDetection()])


def test_a_scheduler_that_is_stepped_by_no_figure_is_fine() -> None:
    fit_evaluated(dplit.DPStrategy(), module=Scheduled("val/loss", plateau=False))
    assert stated()["steered_by"] == []


# -- public, charged, counted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watcher", WATCHERS)
def test_figures_of_a_public_split_are_free(watcher: str) -> None:
    options, who = WATCHERS[watcher]
    fit_evaluated(dplit.DPStrategy(public_splits=["validation"]), **options("val/late"))
    assert f"val/late: of records declared public ({who} watches" in str(stated()["steered_by"])
    assert not any("val/" in line for line in stated()["released_without_charge"])
    assert any("validation are free to publish" in line for line in stated()["assumptions"])


def test_a_public_monitor_declares_the_split() -> None:
    public = FairnessMonitor(release="public", table=False, picture=False)
    fit_evaluated(dplit.DPStrategy(), callbacks=[public, quiet_stop("val/loss"), quiet_stop("fairness/accuracy_gap")])
    assert [line.partition(": ")[2][:26] for line in stated()["steered_by"]] == ["of records declared public"] * 2


def law_a_figure_of_training_is_never_that_of_a_public_split(name: str) -> None:
    strategy = dplit.DPStrategy(public_splits=["validation", "test"])
    with pytest.raises(PrivacyError, match="logged by"):
        fit_evaluated(strategy, callbacks=[quiet_stop(name)])
    assert strategy.ledger.steps == 0


@pytest.mark.parametrize("name", ["train_loss", "train_loss_epoch"])
def test_a_figure_of_training_is_never_that_of_a_public_split(name: str) -> None:
    law_a_figure_of_training_is_never_that_of_a_public_split(name)


def test_mutant_that_believes_the_name_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.outlets.figures.check_figure", lambda *given: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        law_a_figure_of_training_is_never_that_of_a_public_split("train_loss")


def test_noisy_figures_may_steer() -> None:
    noisy = FairnessMonitor(release="noisy", table=False, picture=False)
    fit_evaluated(dplit.DPStrategy(), callbacks=[noisy, quiet_stop("fairness/accuracy_gap")])
    (line,) = stated()["steered_by"]
    assert line.startswith("the weights depend on fairness/accuracy_gap: noisy, charged")


def test_allowed_monitoring_is_stated() -> None:
    flagged = FairnessMonitor(allow_monitoring=True, table=False, picture=False)
    fit_evaluated(dplit.DPStrategy(), callbacks=[flagged, quiet_stop("fairness/accuracy_gap")])
    assert "accuracy_gap: exact, uncharged (EarlyStopping watches" in str(stated()["steered_by"])


@pytest.mark.parametrize("name", ["epoch", "step"])
def test_counts_may_choose_a_checkpoint_unless_a_figure_has_their_name(name: str) -> None:
    class Misleading(Evaluated):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log(name, torch.tensor(1.0))

    def keep(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(folder, monitor=name, mode="max", save_top_k=2)

    fit_evaluated(dplit.DPStrategy(), callbacks=[keep("kept")])
    assert f"{name}: a count of Lightning's" in str(stated()["steered_by"])
    with pytest.raises(PrivacyError, match=f"watches {name}: logged by validation_step"):
        fit_evaluated(dplit.DPStrategy(), module=Misleading(), callbacks=[keep("other")])


# -- names ---------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.text(min_size=1, max_size=8),
    st.sampled_from(["", "_step", "_epoch"]),
    st.sampled_from(["", "/dataloader_idx_0", "/dataloader_idx_12"]),
)
def test_lightnings_suffixes_are_known(name: str, fork: str, loader: str) -> None:
    assert is_logged_by(name, name + fork + loader)
    assert not is_logged_by(name, f"{name}{fork}{loader}x")
    assert not is_logged_by(f"{name}x", name + fork)


def test_hooks_tell_the_split() -> None:
    assert {split_of(hook) for hook in ("training_step", "on_train_epoch_end", "on_before_zero_grad", "")} == {"train"}
    assert split_of("on_validation_epoch_end") == "validation"
    assert split_of("test_step") == "test"
