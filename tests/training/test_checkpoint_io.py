"""Checkpoints are whole or not there, and reading one runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dplit.errors import JournalError
from dplit.training import checkpoint_io
from dplit.training.checkpoint_io import AtomicCheckpointIO

STATE = {"state_dict": {"w": torch.arange(5.0)}, "epoch": 3}


class _Hostile:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('ran')",)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "deep" / "a.ckpt"
    io.save_checkpoint(STATE, path)
    loaded = io.load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["w"], STATE["state_dict"]["w"])
    assert loaded["epoch"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


def law_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint(STATE, path)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        io.save_checkpoint({"state_dict": lambda: None}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    law_a_failed_save_leaves_the_old_file(tmp_path)


def test_mutant_that_writes_in_place_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_io, "replacing", lambda path: path.open("wb"))
    with pytest.raises(AssertionError):
        law_a_failed_save_leaves_the_old_file(tmp_path)


def _truncated(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    path.write_bytes(path.read_bytes()[:-100])


HOSTILE = {
    "runs code": lambda path: torch.save({"a": _Hostile()}, path),
    "plain pickle": lambda path: path.write_bytes(pickle.dumps(_Hostile(), 2)),
    "truncated": _truncated,
    "empty": lambda path: path.write_bytes(b""),
    "a list": lambda path: torch.save([1], path),
    "missing": lambda path: None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_line_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    HOSTILE[kind](path)
    with pytest.raises(JournalError, match=r"a\.ckpt") as refused:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "\n" not in str(refused.value)


def test_mutant_that_reads_anything_runs_the_payload(tmp_path: Path) -> None:
    HOSTILE["runs code"](tmp_path / "a.ckpt")
    with pytest.raises(SystemExit, match="ran"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
