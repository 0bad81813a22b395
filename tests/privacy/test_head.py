"""The head of a journal is never ahead of it, and lags by no more than what was not waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dplit.privacy import Gaussian, Journal, Record
from dplit.privacy.head import Head, Mark, head_path, read_head
from dplit.privacy.journal import load

RECORD = Record(Gaussian(1.0), 1, "train")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger-2.jsonl"


def law_head_says_what_the_disk_has(path: Path) -> None:
    with Journal.create(path) as journal:
        for entries in range(4):
            assert read_head(path) == Mark(journal.run_id, entries, load(path).sums[-1])
            journal.append(RECORD)
        wait = journal.begin(RECORD)
        assert read_head(path).entries == 4 < len(load(path).entries)
        wait()
    assert read_head(path).entries == 5


def test_the_head_says_what_the_disk_has(path: Path) -> None:
    law_head_says_what_the_disk_has(path)
    assert head_path(path).name == "ledger-2.head"


def test_mutant_head_before_the_disk_is_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Journal.begin

    def early(self: Journal, record: Record) -> object:
        wait = honest(self, record)
        wait()
        return wait

    monkeypatch.setattr(Journal, "begin", early)
    with pytest.raises(AssertionError):
        law_head_says_what_the_disk_has(path)


def test_a_reopened_journal_keeps_its_head_until_there_is_more_to_say(path: Path) -> None:
    with Journal.create(path) as journal:
        journal.append(RECORD)
        journal.append(RECORD)
    before = read_head(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    Journal.reopen(path).close()
    assert read_head(path) == before


def test_a_head_of_another_run_is_replaced(path: Path) -> None:
    head = Head(path)
    head.write(Mark("0" * 32, 7, "0" * 16))
    head.close()
    with Journal.create(path) as journal:
        assert read_head(path) == Mark(journal.run_id, 0, load(path).sums[-1])


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 70, b"0" * 32 + b" 7 " + b"0" * 16 + b"\n"])
def test_what_is_no_head_says_nothing(path: Path, content: bytes) -> None:
    head_path(path).write_bytes(content)
    assert read_head(path) is None
    head_path(path).unlink()
    assert read_head(path) is None
