"""Splits are added up unless they are known or declared to be disjoint; what is seen beats what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset

import dplit
from dplit.data.adult import Adult
from dplit.data.base import ALL_SPLITS
from dplit.data.tables.files import Table
from dplit.errors import BudgetExhausted, PrivacyError
from dplit.fairness import FairnessMonitor
from dplit.privacy import Gaussian, Ledger, epsilon, read
from dplit.privacy.splits import Splits
from dplit.protocols import DeclaresDisjointSplits
from dplit.training import splits
from tests.lightning import Data, fit, trainer
from tests.training.test_never_behind import Judged, stated

GROUPS = ["a", "b", "c"]
DELTA = 1e-5
ALL = Data()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def part(start: int, end: int) -> DataLoader:
    return DataLoader(Subset(ALL, range(start, end)), batch_size=16)


def made(**options: Any) -> dplit.DPStrategy:
    return dplit.DPStrategy(**{"noise": 50.0, "group": "group", "groups": GROUPS, "delta": DELTA, **options})


def evaluated(strategy: dplit.DPStrategy, train: Any, val: Any, test: Any, epochs: int = 2, data: Any = None) -> Ledger:
    """Fit for some epochs with noisy counts of every validation loader, then test; σ = 4."""
    monitor = FairnessMonitor(release="noisy", noise_multiplier=4.0, table=False, picture=False)
    run = trainer(strategy, max_epochs=epochs, callbacks=[monitor], num_sanity_val_steps=0)
    run.fit(Judged(), train, val) if data is None else run.fit(Judged(), datamodule=data)
    run.test(run.lightning_module, test, datamodule=data, verbose=False)
    assert stated()["epsilon"] == read("ledger.jsonl").epsilon(DELTA).upper == strategy.spent().epsilon
    return strategy.ledger


def composed(times: int) -> float:
    return epsilon([(Gaussian(4.0), times)], DELTA).upper


def law_the_same_records_are_added_up() -> None:
    held = part(40, 64)
    ledger = evaluated(made(), part(0, 40), [held, held], held)
    assert ledger.entries["test"] == {Gaussian(4.0): 1}
    assert ledger.epsilon(DELTA).upper >= composed(5)
    assert stated()["counted_together"] == [["test", "validation/0", "validation/1"], ["train"]]


def test_the_same_records_are_added_up() -> None:
    law_the_same_records_are_added_up()


def test_mutant_the_larger_of_the_two_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Splits, "together", lambda self, names: [(name,) for name in sorted(names)])
    with pytest.raises(AssertionError):
        law_the_same_records_are_added_up()


def test_different_indices_of_one_data_set_are_known_to_be_disjoint() -> None:
    ledger = evaluated(made(), part(0, 30), [part(30, 40), part(40, 50)], part(50, 64))
    assert ledger.epsilon(DELTA).upper == composed(2)
    assert ["validation/0"] in stated()["counted_together"]


def test_data_sets_that_tell_nothing_are_added_up_but_for_train() -> None:
    ledger = evaluated(made(), part(0, 30), DataLoader(Data(), 16), DataLoader(Data(), 16))
    assert ledger.epsilon(DELTA).upper == composed(3)
    assert any("test and train, train and validation were assumed" in line for line in stated()["voided_by"])


def test_declared_disjoint_is_the_largest() -> None:
    held = [DataLoader(Data(), 16), DataLoader(Data(), 16)]
    ledger = evaluated(made(disjoint_splits=True), part(0, 30), held, DataLoader(Data(), 16))
    assert ledger.epsilon(DELTA).upper == composed(2)
    assert any("were declared to share none" in line for line in stated()["voided_by"])


def law_training_records_are_added_up() -> None:
    ledger = evaluated(made(), part(0, 64), part(50, 64), part(0, 10))
    assert ledger.splits.may_share("train", "validation")
    assert ledger.splits.may_share("train", "test")
    every = [pair for split in ledger.entries for pair in ledger.entries[split].items() if split != "test"]
    assert ledger.epsilon(DELTA).upper == epsilon(every, DELTA).upper > composed(2)


def test_training_records_are_added_up() -> None:
    law_training_records_are_added_up()


def test_mutant_that_does_not_look_at_the_data_sets_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "share_records", lambda one, other: None)
    with pytest.raises(AssertionError):
        law_training_records_are_added_up()


def test_folds_that_change_places_are_added_up() -> None:
    """Under one ledger the records of the first fit's validation are trained on by the second."""
    shared = Ledger()
    for train, val in (((0, 32), (32, 64)), ((32, 64), (0, 32))):
        evaluated(made(ledger=shared), part(*train), part(*val), part(*val), epochs=1)
    assert shared.splits.may_share("train", "validation")


def test_declared_disjoint_but_seen_otherwise_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"^validation and train have records in common, though[^\n]*$"):
        evaluated(made(disjoint_splits=True), part(0, 40), part(39, 64), part(50, 64))


class Parts(LightningDataModule):
    """A user's data module that makes its splits disjoint, and says so."""

    disjoint_splits = ALL_SPLITS

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Data(), 16)

    val_dataloader = test_dataloader = train_dataloader


def test_a_data_module_says_which_splits_are_disjoint() -> None:
    ledger = evaluated(made(), None, None, None, data=Parts())
    assert ledger.epsilon(DELTA).upper == composed(2)
    assert ledger.splits.assumed(list(ledger.entries)) == []


def test_data_modules_declare_what_they_make_disjoint() -> None:
    """Parts of one permutation of row numbers are; what a user gives as a test file may hold anything."""
    table = {"label": "y", "classes": [0, 1], "group": {"s": ["f", "m"]}, "categories": {"a": ["x"]}}
    assert Adult().disjoint_splits == Table("a.csv", **table).disjoint_splits == ALL_SPLITS
    assert Table("a.csv", test="b.csv", **table).disjoint_splits == ("train", "validation")
    assert isinstance(Adult(), DeclaresDisjointSplits)


def test_different_records_are_not_known_to_be_different_persons() -> None:
    ledger = Ledger()
    for split, (start, end) in {"a": (0, 10), "b": (10, 20)}.items():
        splits.see(ledger, split, [Subset(ALL, range(start, end))], unit="user")
        ledger.record(Gaussian(4.0), split=split, unit="user")
    assert ledger.epsilon(DELTA).upper == composed(2)


def test_a_target_is_kept_with_statistics_of_training_records() -> None:
    target = dplit.Target(2.0, DELTA)
    strategy = made(noise=target)
    monitor = FairnessMonitor(release="noisy", noise_multiplier=8.0, table=False, picture=False)
    run = trainer(strategy, max_epochs=6, callbacks=[monitor], num_sanity_val_steps=0)
    with pytest.raises(BudgetExhausted, match=r"^validation and train have records in common[^\n]*$"):
        run.fit(Judged(), DataLoader(ALL, 16), DataLoader(ALL, 16))
    assert 0 < strategy.ledger.steps < 6 * 4
    assert 0 < strategy.ledger.epsilon(DELTA).upper <= target.epsilon
    assert stated()["epsilon"] <= target.epsilon


def test_a_name_that_no_loader_has_is_added_up() -> None:
    strategy = made()
    fit(strategy=strategy)
    for split in ("mine", "yours"):
        strategy.release_statistic(torch.zeros(2), sensitivity=1.0, noise_multiplier=4.0, split=split)
    assert strategy.spent().epsilon == composed(2)
