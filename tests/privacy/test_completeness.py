"""A journal whose end was cut off is noticed by what lies beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dplit.errors import JournalError
from dplit.privacy import Gaussian, Journal, Ledger, Sampled, completeness, read
from dplit.privacy.completeness import check_whole
from dplit.privacy.head import head_path
from dplit.privacy.statement import Facts, write_statement

STEP = Sampled(0.1, [Gaussian(1.0)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of 30 steps with its head and its final statement."""
    with Journal.create(tmp_path / "ledger.jsonl") as journal:
        ledger = Ledger(journal)
        for _ in range(30):
            ledger.record(STEP)
        write_statement(tmp_path, ledger, Facts(1e-5))
    return tmp_path / "ledger.jsonl"


def cut(path: Path, lines: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-lines]))


def law_a_cut_is_noticed(path: Path, lines: int, gone: str) -> None:
    if gone:
        (path.parent / gone).unlink()
    assert check_whole(path) == [name for name in ("ledger.head", "privacy.json") if name != gone]
    cut(path, lines)
    with pytest.raises(
        JournalError, match=rf"^[^\n]*has {30 - lines} entries[^\n]*says 30: its end was cut off[^\n]*$"
    ):
        check_whole(path)


@pytest.mark.parametrize("lines", [1, 10, 30])
@pytest.mark.parametrize("gone", ["", "ledger.head", "privacy.json"])
def test_a_cut_is_noticed(path: Path, lines: int, gone: str) -> None:
    law_a_cut_is_noticed(path, lines, gone)


def test_mutant_that_compares_with_nothing_is_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completeness, "_compared", lambda path, contents, name, *said: name)
    with pytest.raises(pytest.fail.Exception):
        law_a_cut_is_noticed(path, 10, "")


def test_a_journal_that_went_on_is_whole(path: Path) -> None:
    with Journal.reopen(path) as journal:
        journal.note("more")
    assert check_whole(path) == ["ledger.head", "privacy.json"]


def test_nothing_beside_it_is_said(path: Path) -> None:
    head_path(path).unlink()
    (path.parent / "privacy.json").unlink()
    cut(path, 10)
    assert check_whole(path) == []


def test_a_statement_of_version_0_1_0_knows_the_steps(path: Path) -> None:
    head_path(path).unlink()
    place = path.parent / "privacy.json"
    old = {key: value for key, value in json.loads(place.read_text()).items() if key not in ("recorded", "status")}
    place.write_text(json.dumps(old))
    assert check_whole(path) == ["privacy.json"]
    cut(path, 1)
    with pytest.raises(JournalError, match=r"has 29 steps, privacy\.json beside it says 30"):
        check_whole(path)


def test_another_history_is_refused(path: Path) -> None:
    run_id = read(path).run_id
    path.unlink()
    with Journal.create(path.with_name("other.jsonl"), run_id) as journal:
        ledger = Ledger(journal)
        for _ in range(40):
            ledger.record(Gaussian(9.0))
    journal.path.rename(path)
    with pytest.raises(JournalError, match="another history"):
        check_whole(path)


@pytest.mark.parametrize(
    "wrong", [{"recorded": {"entries": "30", "sum": 3}}, {"recorded": {}}, {"recorded": None, "steps": None}]
)
def test_a_statement_that_says_no_number_is_not_compared(path: Path, wrong: dict[str, object]) -> None:
    place = path.parent / "privacy.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **wrong}))
    assert check_whole(path) == ["ledger.head"]
    place.write_text("[")
    assert check_whole(path) == ["ledger.head"]


def test_a_statement_of_another_run_is_not_compared(path: Path) -> None:
    place = path.parent / "privacy.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "run_id": "0" * 32}))
    assert check_whole(path) == ["ledger.head"]


def test_resuming_looks_at_the_head_too(path: Path) -> None:
    with Journal.reopen(path) as journal:
        ledger = Ledger(journal)
        state = ledger.state_dict()
        ledger.record(STEP)
    cut(path, 1)
    with pytest.raises(JournalError, match=r"ledger\.head beside it says 31"):
        Ledger.resume(state, path)
