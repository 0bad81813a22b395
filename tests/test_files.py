"""Files are whole or not there, and paths that are handed out are free."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dplit import files


def law_whole_or_old(path: Path) -> None:
    """A write that fails in the middle leaves the old content, and nothing beside it."""
    path.write_text("old")

    def fail() -> None:
        with files.replacing(path) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    law_whole_or_old(tmp_path / "a.json")


def test_mutant_that_writes_in_place_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "replacing", lambda path: path.open("wb"))
    with pytest.raises(AssertionError):
        law_whole_or_old(tmp_path / "a.json")


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    kill = "with replacing(sys.argv[1]) as stream: stream.write(b'half'); stream.flush(); os._exit(9)"
    code = f"import os, sys\nfrom dplit.files import replacing\n{kill}"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=Path(__file__).parents[1])
    assert path.read_text() == "old"


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "sub" / "a.txt", "ε\r\nδ\n")
    assert (tmp_path / "sub" / "a.txt").read_bytes() == "ε\r\nδ\n".encode()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_a_folder_appears_whole(tmp_path: Path) -> None:

    def fail() -> None:
        with files.new_folder(tmp_path / "model") as inside:
            (inside / "config.json").write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with files.new_folder(tmp_path / "model") as inside:
        (inside / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    with pytest.raises(FileExistsError), files.new_folder(tmp_path / "model"):
        pass


def test_free_paths_keep_the_suffix(tmp_path: Path) -> None:
    for expected in ("ledger.jsonl", "ledger-2.jsonl", "ledger-3.jsonl"):
        free = files.next_free_path(tmp_path / "ledger.jsonl")
        assert free.name == expected
        free.touch()


def test_no_two_claims_are_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: files.claim(tmp_path / "new" / "fairness.csv"), range(40)))
    assert len(set(claimed)) == 40


def test_what_is_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "a").write_text(content)
        files.set_aside(tmp_path / "run", tmp_path / "aside" / "run")
    assert [p.read_text() for p in sorted((tmp_path / "aside").glob("*/a"))] == ["first", "second"]
