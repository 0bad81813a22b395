"""Checkpoints and journals that version 0.1.0 wrote are gone on from, and nothing they recorded is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import dplit
from dplit.clipping import GroupQuantile
from dplit.errors import PrivacyError
from dplit.privacy import read
from tests.lightning import Linear, loader, trainer
from tests.training.test_units import Persons

WRITTEN = Path(__file__).parent / "version_0_1_0"
SPENT = {"records": 2.999814731991371, "persons": 2.821428543362964}
"""ε at δ = 1e-5 that version 0.1.0 stated after the eight steps of each run."""
MESH = 1e-12
"""By how much two certified bounds of the same steps differ whose meshes are not the same, relative to ε."""


def strategy_of(run: str, **changes: Any) -> dplit.DPStrategy:
    if run == "records":
        return dplit.DPStrategy(GroupQuantile(), 1.0, group="group", groups=["a", "b", "c"], delta=1e-5)
    return dplit.DPStrategy(**{"noise": 1.5, "unit": "user", "delta": 1e-5, **changes})


def data_of(run: str) -> DataLoader:
    return loader() if run == "records" else DataLoader(Persons(), batch_size=5)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A run folder as version 0.1.0 left it: its checkpoint names the journal by an absolute path."""
    run = request.param
    monkeypatch.chdir(tmp_path)
    shutil.copy(WRITTEN / f"{run}.jsonl", tmp_path / "ledger.jsonl")
    state = torch.load(WRITTEN / f"{run}.ckpt", weights_only=True)
    state["dplit"]["journal"] = str(tmp_path / "ledger.jsonl")
    torch.save(state, tmp_path / "last.ckpt")
    return run, tmp_path / "last.ckpt"


both = pytest.mark.parametrize("checkpoint", ["records", "persons"], indirect=True)


@both
def test_its_journal_says_the_same_epsilon(checkpoint: tuple[str, Path]) -> None:
    run, path = checkpoint
    ledger = read(path.with_name("ledger.jsonl"))
    assert ledger.steps == 8
    found = ledger.epsilon(1e-5)
    assert found.upper == pytest.approx(SPENT[run], rel=MESH)
    assert found.lower <= SPENT[run]


@both
def test_a_fit_goes_on_from_it(checkpoint: tuple[str, Path]) -> None:
    run, path = checkpoint
    strategy = strategy_of(run)
    again = trainer(strategy, max_epochs=3)
    again.fit(Linear(), data_of(run), ckpt_path=path, weights_only=True)
    steps = 8 + len(again.train_dataloader)
    assert strategy.ledger.steps == read("ledger.jsonl").steps == steps
    assert json.loads(Path("privacy.json").read_text())["epsilon"] > SPENT[run] * (1 + MESH)


@pytest.mark.parametrize("checkpoint", ["persons"], indirect=True)
def test_its_unit_is_kept(checkpoint: tuple[str, Path]) -> None:
    """Version 0.1.0 wrote the unit beside the ledger; it holds for the steps of the journal, now and after the next save."""
    run, path = checkpoint
    again = trainer(strategy_of(run), max_epochs=3)
    again.fit(Linear(), data_of(run), ckpt_path=path, weights_only=True)
    again.save_checkpoint("next.ckpt")
    for ckpt in (path, "next.ckpt"):
        other = trainer(strategy_of(run, unit=None), max_epochs=4)
        with pytest.raises(PrivacyError, match="keep the unit"):
            other.fit(Linear(), data_of(run), ckpt_path=ckpt, weights_only=True)
