"""Promises 22 and 23: a hostile checkpoint is only an error, and saving leaves the old file or the new one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dplit.errors import JournalError
from dplit.training import checkpoint_io
from dplit.training.checkpoint_io import AtomicCheckpointIO

SEALED = torch.load


class Payload:
    """Creates a file when it is unpickled, as code hidden in a checkpoint could do anything."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def law_hostile_checkpoint_runs_nothing(folder: Path) -> None:
    mark, path = folder / "mark", folder / "hostile.ckpt"
    torch.save({"state_dict": {"weight": Payload(mark)}}, path)
    with pytest.raises(JournalError) as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    law_hostile_checkpoint_runs_nothing(tmp_path)


def test_mutant_that_unpickles_anything_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = lambda *args, weights_only, **options: SEALED(*args, weights_only=False, **options)  # noqa: E731
    monkeypatch.setattr(checkpoint_io.torch, "load", trusting)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law_hostile_checkpoint_runs_nothing(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_damaged_checkpoint_is_one_line(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(JournalError, match="damaged") as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    assert "\n" not in str(caught.value)


class PowerCut(BaseException):
    """What ends the process in the middle of a write."""


def law_an_interrupted_save_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = AtomicCheckpointIO(), folder / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)

    def half(checkpoint: Any, file: Any, *args: Any) -> None:
        if isinstance(file, str | os.PathLike):
            Path(file).write_bytes(b"half a checkpoint")
        else:
            file.write(b"half a checkpoint")
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_io.torch, "save", half)
        with pytest.raises(PowerCut):
            io.save_checkpoint({"step": 2}, path)
    try:
        assert io.load_checkpoint(path) == {"step": 1}
    except JournalError as error:
        raise AssertionError("the old checkpoint is lost") from error
    assert [file.name for file in folder.iterdir()] == ["last.ckpt"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    law_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch)


def test_mutant_that_saves_in_place_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(self: AtomicCheckpointIO, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        checkpoint_io.torch.save(checkpoint, path)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", in_place)
    with pytest.raises(AssertionError, match="old checkpoint is lost"):
        law_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch)


def test_the_new_file_is_on_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the sync a power cut could leave the new name with none of the new bytes."""
    order: list[str] = []
    for name in ("fsync", "replace"):
        honest = getattr(os, name)
        monkeypatch.setattr(
            checkpoint_io.os, name, lambda *args, name=name, honest=honest: (order.append(name), honest(*args))[1]
        )
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "run.ckpt")
    assert order == ["fsync", "replace"]
