"""What a checkpoint keeps of a private fit comes back, and what is no such thing is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dplit.clipping import Flat, Quantile
from dplit.errors import ConfigurationError, JournalError
from dplit.privacy import Journal, Ledger
from dplit.training.saved_fit import KEY, SavedFit, path_from


def saved(**changes: Any) -> dict[str, Any]:
    """A checkpoint with a private part."""
    checkpoint: dict[str, Any] = {"state_dict": {}}
    policy = Quantile(start=2.0)
    whole = SavedFit(Ledger().state_dict(), "runs/a/ledger.jsonl", "Quantile", policy.state_dict(), 1.5, "user")
    whole.write(checkpoint)
    checkpoint[KEY].update(changes)
    return json.loads(json.dumps(checkpoint))


def test_what_is_written_is_read_back() -> None:
    kept = SavedFit.read(saved(), "a.ckpt")
    assert (kept.journal, kept.policy_name, kept.noise_multiplier, kept.unit) == (
        "runs/a/ledger.jsonl",
        "Quantile",
        1.5,
        "user",
    )
    policy = Quantile(start=5.0)
    kept.restore_policy(policy)
    assert policy.bound == 2.0


def test_a_checkpoint_of_version_0_1_is_read() -> None:
    """It kept the same, and before units were known, no unit."""
    checkpoint = saved()
    del checkpoint[KEY]["unit"]
    assert SavedFit.read(checkpoint, "a.ckpt").unit is None


def test_what_a_later_version_adds_is_left_alone() -> None:
    assert SavedFit.read(saved(later=1), "a.ckpt").noise_multiplier == 1.5


@pytest.mark.parametrize(
    "change",
    [
        {"ledger": None},
        {"journal": 3},
        {"policy_name": None},
        {"policy": [1]},
        {"noise_multiplier": "1.5"},
        {"noise_multiplier": True},
        {"noise_multiplier": 0},
        {"noise_multiplier": 1e9},
        {"unit": 3},
        {"beside": 3},
    ],
)
def test_a_damaged_part_is_refused_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(JournalError, match=r"a\.ckpt has no privacy ledger that can be read") as refused:
        SavedFit.read(saved(**change), "a.ckpt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("checkpoint", [{}, {KEY: None}, {KEY: []}, {KEY: {}}])
def test_a_checkpoint_without_it_is_refused(checkpoint: dict[str, Any]) -> None:
    with pytest.raises(JournalError, match="has no privacy ledger"):
        SavedFit.read(checkpoint, "a.ckpt")


def test_a_journal_is_found_where_it_was_or_where_it_was_moved(tmp_path: Path) -> None:
    ledger = Ledger()
    Journal.create(tmp_path / "run" / "ledger.jsonl", ledger.run_id).close()
    for beside, was in (
        ("../ledger.jsonl", "gone.jsonl"),
        ("", "gone.jsonl"),
        ("", str(tmp_path / "run/ledger.jsonl")),
    ):
        kept = SavedFit(ledger.state_dict(), was, "Flat", {}, 1.0, beside=beside)
        found = kept.find_journal(tmp_path / "run" / "checkpoints" / "a.ckpt")
        assert found.resolve() == tmp_path / "run" / "ledger.jsonl"
    other = SavedFit(Ledger().state_dict(), "gone.jsonl", "Flat", {}, 1.0, beside="../ledger.jsonl")
    assert other.find_journal(tmp_path / "run" / "checkpoints" / "a.ckpt") == Path("gone.jsonl")


def test_the_path_from_a_checkpoint_survives_a_move(tmp_path: Path) -> None:
    assert path_from(tmp_path / "a/checkpoints/x.ckpt", tmp_path / "a/ledger.jsonl") == os.path.join(
        "..", "ledger.jsonl"
    )


def test_thresholds_go_back_to_their_own_policy_only() -> None:
    with pytest.raises(ConfigurationError, match="trained with Quantile, not Flat"):
        SavedFit.read(saved(), "a.ckpt").restore_policy(Flat())
