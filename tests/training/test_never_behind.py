"""A statement on disk never says less than the journal beside it, whatever becomes of a fit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

import dplit
from dplit.errors import JournalError, PrivacyError
from dplit.fairness import FairnessMonitor
from dplit.privacy import Gaussian, Journal, Ledger, read
from dplit.privacy.ahead import Ahead
from dplit.privacy.statement import AHEAD, FINAL, STILL_TO_COME
from tests.lightning import BATCH, SIZE, Data, Linear, fit, loader, trainer
from tests.privacy.test_ahead import never_behind

DRAWS = SIZE // BATCH


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stated(folder: str | Path = ".") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "privacy.json").read_text())
    return found


class Look(Callback):
    """Compares statement and journal when a gradient was released, and stops after some steps."""

    def __init__(self, folder: str | Path = ".", stop: int = 10**9) -> None:
        self.folder, self.stop, self.seen = Path(folder), stop, []

    def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
        never_behind(self.folder)
        self.seen.append(stated(self.folder))
        trainer.should_stop |= trainer.global_step >= self.stop


class Judged(Linear):
    """Predicts in validation and test."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return {"logits": self.net(batch["x"]), "target": batch["y"]}

    test_step = validation_step


def law_never_behind_while_training(**options: Any) -> list[dict[str, Any]]:
    look = Look(stop=20)
    strategy = dplit.DPStrategy(noise=2.0, group="group", groups=["a", "b", "c"], delta=1e-5)
    monitor = FairnessMonitor(release="noisy", table=False, picture=False)
    run = trainer(strategy, callbacks=[look, monitor], num_sanity_val_steps=0, **options)
    run.fit(Judged(), loader(), DataLoader(Data(), batch_size=32))
    assert len(look.seen) == 20
    assert all(found["status"] == AHEAD and STILL_TO_COME in found["released_without_charge"] for found in look.seen)
    never_behind(Path())
    assert (stated()["status"], stated()["steps"]) == (FINAL, 20)
    assert STILL_TO_COME not in stated()["released_without_charge"]
    assert stated()["epsilon"] == strategy.spent().epsilon
    return look.seen


def test_a_planned_fit_is_stated_in_full_from_the_start() -> None:
    seen = law_never_behind_while_training(max_epochs=8)
    assert {found["steps"] for found in seen} == {8 * DRAWS}


def test_an_endless_fit_is_stated_in_blocks() -> None:
    seen = law_never_behind_while_training(max_epochs=-1, max_steps=-1)
    assert [found["steps"] for found in seen] == [2, 2, 6, 6, 6, 6, *([14] * 8), *([30] * 6)]


def test_mutant_statement_at_start_and_end_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ahead, "reach", lambda self, ledger, entry: None)
    monkeypatch.setattr(Ahead, "plan", lambda self, ledger, record: self.settle(ledger))
    with pytest.raises(AssertionError):
        law_never_behind_while_training(max_epochs=8)


def test_a_target_is_what_is_stated_at_most() -> None:
    look = Look()
    fit(strategy=dplit.DPStrategy(noise=dplit.Target(3.0, 1e-3)), max_epochs=3, callbacks=[look])
    assert all(2.9 < found["epsilon"] <= 3.0 and not found["warnings"] for found in look.seen)


def law_releases_after_the_fit_are_stated_first(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = dplit.DPStrategy(noise=2.0, delta=1e-5)
    fit(strategy=strategy)
    drawn = strategy.noise_source.release

    def looking(self: Any, number: int) -> Any:
        never_behind(Path())
        assert stated()["splits"]["other"] > 0
        return drawn(self, number)

    monkeypatch.setattr(strategy.noise_source, "release", looking)
    for _ in range(3):
        strategy.release_statistic(torch.zeros(3), sensitivity=1.0, noise_multiplier=0.5, split="other")
        assert stated()["epsilon"] == read("ledger.jsonl").epsilon(1e-5).upper == strategy.spent().epsilon
        assert stated()["status"] == FINAL


def test_releases_after_the_fit_are_stated_first(monkeypatch: pytest.MonkeyPatch) -> None:
    law_releases_after_the_fit_are_stated_first(monkeypatch)


def test_mutant_statement_of_the_fit_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ahead, "reach", lambda self, ledger, entry: None)
    with pytest.raises((AssertionError, KeyError)):
        law_releases_after_the_fit_are_stated_first(monkeypatch)


def test_two_strategies_of_one_ledger_state_both_in_both_folders() -> None:
    shared, module = Ledger(), Linear()
    shared.record(Gaussian(3.0))
    for name in ("one", "two"):
        strategy = dplit.DPStrategy(noise=2.0, ledger=shared, delta=1e-5)
        run = trainer(strategy, default_root_dir=name, callbacks=[Look("one")])
        run.fit(module, loader())
    assert stated("one")["epsilon"] == stated("two")["epsilon"] == shared.epsilon(1e-5).upper
    assert stated("one")["steps"] == read("one/ledger.jsonl").steps == 1 + 2 * DRAWS


def test_a_fit_resumed_in_another_folder_keeps_the_statement_beside_the_journal() -> None:
    run = trainer(dplit.DPStrategy(delta=1e-5), default_root_dir="one")
    run.fit(Linear(), loader())
    run.save_checkpoint("one/last.ckpt")
    again = trainer(dplit.DPStrategy(delta=1e-5), default_root_dir="two", max_epochs=3, callbacks=[Look("one")])
    again.fit(Linear(), loader(), ckpt_path="one/last.ckpt")
    assert stated("one")["steps"] == stated("two")["steps"] == read("one/ledger.jsonl").steps == 3 * DRAWS
    assert not Path("two/ledger.jsonl").exists()


# -- moved folders


@pytest.mark.parametrize("checkpoint", ["last.ckpt", "checkpoints/last.ckpt", "checkpoints/deep/last.ckpt"])
@pytest.mark.parametrize("journal", ["ledger.jsonl", "renamed.jsonl"])
def test_a_moved_run_goes_on_in_its_journal(checkpoint: str, journal: str) -> None:
    saved("old", f"old/{checkpoint}", journal)
    shutil.move("old", "new")
    strategy = dplit.DPStrategy(delta=1e-5)
    look = [Look("new")] if journal == "ledger.jsonl" else []
    trainer(strategy, default_root_dir="new", max_epochs=3, callbacks=look).fit(
        Linear(), loader(), ckpt_path=f"new/{checkpoint}"
    )
    assert strategy.ledger.steps == read(f"new/{journal}").steps == stated("new")["steps"] == 3 * DRAWS
    assert sorted(path.name for path in Path("new").glob("*.jsonl")) == [journal]


def saved(folder: str, checkpoint: str, journal: str = "ledger.jsonl") -> dplit.DPStrategy:
    ledger = Ledger()
    ledger.attach(Journal.create(Path(folder) / journal, ledger.run_id))
    ledger.journal.close()
    strategy = dplit.DPStrategy(delta=1e-5, ledger=ledger)
    run = trainer(strategy, default_root_dir=folder)
    run.fit(Linear(), loader())
    run.save_checkpoint(checkpoint)
    return strategy


def test_a_ledger_whose_folder_was_moved_goes_on_there() -> None:
    module, shared = Linear(), Ledger()
    trainer(dplit.DPStrategy(delta=1e-5, ledger=shared), default_root_dir="old").fit(module, loader())
    shutil.move("old", "new")
    strategy = dplit.DPStrategy(delta=1e-5, ledger=shared)
    trainer(strategy, default_root_dir="new", callbacks=[Look("new")]).fit(module, loader())
    assert shared.steps == read("new/ledger.jsonl").steps == stated("new")["steps"] == 2 * DRAWS
    assert not Path("old").exists()


def test_of_a_copy_that_went_on_alone_the_longer_counts() -> None:
    saved("old", "old/last.ckpt")
    shutil.copytree("old", "new")
    with Journal.reopen("new/ledger.jsonl") as journal:
        Ledger(journal).record(Gaussian(1.0), times=5)
    strategy = dplit.DPStrategy(delta=1e-5)
    trainer(strategy, max_epochs=2).fit(Linear(), loader(), ckpt_path="new/last.ckpt")
    assert strategy.ledger.steps == 2 * DRAWS + 5


def test_two_copies_that_both_went_on_are_refused() -> None:
    saved("old", "old/last.ckpt")
    shutil.copytree("old", "new")
    for folder, noise in (("old", 1.0), ("new", 2.0)):
        with Journal.reopen(f"{folder}/ledger.jsonl") as journal:
            Ledger(journal).record(Gaussian(noise))
    with pytest.raises(JournalError, match=r"^[^\n]*are of one run and tell different histories[^\n]*$"):
        trainer(dplit.DPStrategy(), max_epochs=2).fit(Linear(), loader(), ckpt_path="new/last.ckpt")


def test_a_journal_of_another_run_at_the_old_place_is_not_taken() -> None:
    saved("old", "old/last.ckpt")
    shutil.move("old", "new")
    saved("old", "old/last.ckpt")
    strategy = dplit.DPStrategy(delta=1e-5)
    trainer(strategy, default_root_dir="new", max_epochs=2).fit(Linear(), loader(), ckpt_path="new/last.ckpt")
    assert (strategy.ledger.steps, read("new/ledger.jsonl").steps, read("old/ledger.jsonl").steps) == (8, 8, 4)


# -- one run id, one journal


def test_a_ledger_that_was_read_goes_on_in_the_file_it_was_read_from() -> None:
    saved("one", "one/last.ckpt")
    strategy = dplit.DPStrategy(delta=1e-5, ledger=read("one/ledger.jsonl"))
    trainer(strategy, default_root_dir="two", callbacks=[Look("one")]).fit(Linear(), loader())
    assert strategy.ledger.steps == read("one/ledger.jsonl").steps == 2 * DRAWS
    assert not Path("two/ledger.jsonl").exists()


def test_a_second_journal_of_a_run_is_refused() -> None:
    state = Ledger().state_dict()
    fit(strategy=dplit.DPStrategy(ledger=Ledger.resume(state, None)))
    with pytest.raises(JournalError, match=r"^[^\n]*is a journal of this run[^\n]*go on there[^\n]*$"):
        fit(strategy=dplit.DPStrategy(ledger=Ledger.resume(state, None)))


# -- a full disk


def full(*given: Any) -> None:
    raise OSError("no space left on device")


class FillTheDisk(Callback):
    def __init__(self, patch: pytest.MonkeyPatch, *where: str) -> None:
        self.patch, self.where = patch, where

    def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
        if trainer.global_step == 2:
            for name in self.where:
                self.patch.setattr(name, full)


def test_a_statement_that_cannot_be_rewritten_stops_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FillTheDisk(monkeypatch, "dplit.files.os.fsync")
    with pytest.raises(PrivacyError, match="privacy statement cannot be written"):
        fit(strategy=dplit.DPStrategy(), max_epochs=-1, max_steps=-1, callbacks=[disk])
    assert read("ledger.jsonl").steps == 2
    never_behind(Path())


def test_a_full_disk_is_told_by_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement cannot be written either, when the fit ends; the journal's error is what is raised."""
    with monkeypatch.context() as patch:
        disk = FillTheDisk(patch, "dplit.files.os.fsync", "dplit.privacy.journal._put")
        run = trainer(dplit.DPStrategy(), max_epochs=3, callbacks=[disk])
        with pytest.raises(JournalError, match=r"ledger\.jsonl cannot be written") as caught:
            run.fit(Linear(), loader())
    assert any("privacy statement cannot be written" in note for note in caught.value.__notes__)
    assert read("ledger.jsonl").steps == 2
    assert stated()["status"] == AHEAD
    never_behind(Path())


# -- what the journal alone says


def test_the_journal_alone_says_what_the_statement_says() -> None:
    policy = dplit.clipping.GroupThresholds({"a": 1.0, "b": 0.5, "c": 0.25})
    strategy = dplit.DPStrategy(policy, 2.0, group="group", groups=["a", "b", "c"], delta=1e-5)
    fit(strategy=strategy)
    for split in ("validation", "test"):
        strategy.release_statistic(torch.zeros(3), sensitivity=1.0, noise_multiplier=2.0, split=split)
    ran = subprocess.run(
        [sys.executable, "-m", "dplit.account", "--journal", "ledger.jsonl", "--delta", "1e-5", "--json"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(ran.stdout)
    for key in ("epsilon", "steps", "groups", "unit", "splits", "counted_together"):
        assert said[key] == stated()[key]
    assert said["counted_together"] == [["test", "validation"], ["train"]]
    assert said["compared_with"] == ["ledger.head", "privacy.json"]


# -- a real kill

TRAINEE = """
import sys, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, {root!r})
import dplit
from pathlib import Path
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.lightning import Linear, loader, trainer

last = Path("checkpoints/last.ckpt")
save = ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=3)
plan = dict(max_epochs=-1, max_steps=-1) if {endless} else dict(max_epochs=100_000)
run = trainer(dplit.DPStrategy(noise=4.0, delta=1e-5), callbacks=[save], enable_checkpointing=True, **plan)
run.fit(Linear(), loader(), ckpt_path=str(last) if last.exists() else None)
"""


def steps_in(path: str) -> int:
    try:
        return read(path).steps
    except JournalError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("endless", [True, False])
def test_killed_at_random_moments_no_statement_is_behind(endless: bool) -> None:
    root, generator, steps = str(Path(__file__).parents[2]), random.Random(0), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", TRAINEE.format(root=root, endless=endless)])
        deadline = time.monotonic() + 90
        while steps_in("ledger.jsonl") < steps + 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(generator.random() / 4)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        steps = read("ledger.jsonl").steps
        never_behind(Path())
        assert stated()["status"] == AHEAD
