"""The ledger stays one object, its journal is found again, and the statement lists what left uncharged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

import dplit
from dplit.errors import JournalError
from dplit.privacy import Gaussian, Ledger, read
from dplit.training.run_record import RunRecord, Spent
from tests.lightning import Linear, fit


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def law_the_ledger_stays_one_object(tmp_path: Path) -> None:
    """Whoever holds the ledger sees everything: before a journal, with one, after closing, and what came before counts."""
    ledger = Ledger()
    ledger.record(Gaussian(0.5))
    record = RunRecord(ledger)
    record.open(tmp_path)
    record.ledger.record(Gaussian(2.0))
    record.close()
    record.open(tmp_path)
    record.ledger.record(Gaussian(2.0))
    record.close()
    assert record.ledger is ledger
    assert dict(ledger.entries["train"]) == {Gaussian(0.5): 1, Gaussian(2.0): 2}
    assert read(tmp_path / "ledger.jsonl").entries == ledger.entries


def test_the_ledger_stays_one_object(tmp_path: Path) -> None:
    law_the_ledger_stays_one_object(tmp_path)


def test_mutant_that_starts_a_new_ledger_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dplit.privacy import Journal

    def replacing(self: RunRecord, folder: Path) -> None:
        if self.ledger.journal is None:
            self.ledger = Ledger(Journal.create(folder / "ledger.jsonl", self.ledger.run_id))
        elif self.ledger.journal.closed:
            self.ledger.reopen()

    monkeypatch.setattr(RunRecord, "open", replacing)
    with pytest.raises(AssertionError):
        law_the_ledger_stays_one_object(tmp_path)


def test_two_strategies_share_one_ledger_from_the_start() -> None:
    """Both were given it before either trained; the second counts what the first spent."""
    shared, module = Ledger(), Linear()
    first, second = (dplit.DPStrategy(noise=2.0, ledger=shared, delta=1e-5) for _ in range(2))
    fit(module, first)
    fit(module, second)
    assert first.ledger is second.ledger is shared
    assert shared.steps == read("ledger.jsonl").steps == 8


def test_two_runs_in_one_folder_keep_two_journals(tmp_path: Path) -> None:
    for _ in range(2):
        record = RunRecord()
        record.open(tmp_path)
        record.close()
    assert sorted(p.name for p in tmp_path.glob("*.jsonl")) == ["ledger-2.jsonl", "ledger.jsonl"]


def test_a_journal_that_is_gone_is_an_error_and_not_a_new_one(tmp_path: Path) -> None:
    record = RunRecord()
    record.open(tmp_path)
    record.close()
    (tmp_path / "ledger.jsonl").unlink()
    with pytest.raises(JournalError, match="does not exist"):
        record.open(tmp_path)


def test_opened_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    record = RunRecord()
    with record.opened(tmp_path) as ledger:
        ledger.record(Gaussian(3.0), split="validation")
    assert record.ledger.journal.closed
    record.open(tmp_path)
    with record.opened(tmp_path):
        pass
    assert not record.ledger.journal.closed
    record.close()


class Tells(Callback):
    """A callback that speaks for its own figures."""

    logged_keys = frozenset({"mine"})

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.log("mine", torch.tensor(1.0))
        self.log("other", torch.tensor(1.0))

    def released_without_charge(self) -> list[str]:
        return ["mine: as a test says"]


def test_the_statement_lists_every_figure_once() -> None:
    class Logs(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = self.losses(batch)
            self.log("train/loss", losses.mean())
            return losses

    fit(Logs(), callbacks=[Tells()])
    assert json.loads(Path("privacy.json").read_text())["released_without_charge"] == [
        "mine: as a test says",
        "other: exact, logged outside training_step",
        "train/loss: exact, logged by training_step",
    ]


def test_spent_is_the_upper_bound_and_by_group_only_where_all_groups_have_one() -> None:
    ledger = Ledger()
    ledger.record(Gaussian(2.0))
    spent = Spent.of(ledger, 1e-5, ["a", "b"])
    assert spent.epsilon == ledger.epsilon(1e-5).upper
    assert spent.by_group == {"a": spent.epsilon, "b": spent.epsilon}


class Reads(Linear):
    """What certifies a step would note: places in its code, and what it took for granted."""

    def on_train_batch_end(self, *given: Any) -> None:
        record = self.trainer.strategy._record
        record.note_python_reads(["model.py:31: `if loss.max() > 20`: declared harmless"])
        record.assumptions.add("the labels are public")


def test_python_reads_and_assumptions_are_noted_once_in_the_statement() -> None:
    fit(Reads())
    stated = json.loads(Path("privacy.json").read_text())
    assert stated["python_reads"] == ["model.py:31: `if loss.max() > 20`: declared harmless"]
    assert "the labels are public" in stated["assumptions"]
    text = Path("privacy.md").read_text()
    assert text.count("model.py:31") == text.count("the labels are public") == 1
