import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dplit.errors import JournalError
from dplit.privacy import Gaussian, Journal, Ledger, Record, Sampled, read
from dplit.privacy import journal as module
from tests.privacy import releasing

STEP = Sampled(0.01, [Gaussian(1.0), Gaussian(math.inf)], {"ä": Sampled(0.01, [Gaussian(2.0)])})

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child only records and dies


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "LOCK_WAIT", 0.05)


def written(path, steps=3):
    with Journal.create(path) as journal:
        ledger = Ledger(journal)
        for step in range(steps):
            ledger.record(STEP, times=step + 1)
        ledger.note("seen")
    return path.read_bytes()


def one_line(call, *fragments):
    with pytest.raises(JournalError, match=r"^[^\n]+$") as caught:
        call()
    assert all(fragment in str(caught.value) for fragment in fragments), caught.value


def test_what_is_written_is_read(path):
    written(path)
    ledger = read(path)
    assert dict(ledger.entries["train"]) == {STEP: 6}
    assert ledger.notes == ("seen",)
    with Journal.reopen(path) as journal:
        journal.append(Record(Gaussian(3.0), 2, "validation"))
        assert not journal.closed
    assert journal.closed
    assert read(path).entries["validation"] == {Gaussian(3.0): 2}


def test_the_disk_has_it_before_append_returns(path, monkeypatch):
    seen = []
    with Journal.create(path) as journal:
        monkeypatch.setattr(module, "_sync", lambda _: seen.append(path.read_bytes().count(b"\n")))
        journal.append(Record(STEP, 1, "train"))
        journal.append(Record(STEP, 1, "train"))
    assert seen == [2, 3]


def test_an_existing_journal_is_never_overwritten(path):
    before = written(path)
    one_line(lambda: Journal.create(path), "ledger.jsonl", "never overwritten")
    assert path.read_bytes() == before


def test_an_empty_file_may_become_a_journal(path):
    path.touch()
    written(path)
    assert read(path).steps == 6


@pytest.mark.parametrize("run_id", ["x", 7, "A" * 32])
def test_a_run_id_is_a_uuid(path, run_id):
    one_line(lambda: Journal.create(path, run_id), "run id")


def test_one_writer_at_a_time(path):
    with Journal.create(path):
        one_line(lambda: Journal.reopen(path), "ledger.jsonl", "another process")
        one_line(lambda: Journal.create(path), "another process")
        read(path)
    Journal.reopen(path).close()


def test_a_missing_or_foreign_file_is_refused(path):
    one_line(lambda: Journal.reopen(path), "ledger.jsonl does not exist")
    one_line(lambda: read(path), "ledger.jsonl does not exist")
    for content in (b"", b"\n", b"{}\n", b"hello", b"\x00" * 200, b'{"seq":1}\n'):
        path.write_bytes(content)
        one_line(lambda: read(path), "ledger.jsonl line 1")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    one_line(lambda: Journal.create(tmp_path / "file" / "ledger.jsonl"), "cannot be opened as a journal")


def test_a_closed_journal_takes_nothing(path):
    written(path)
    journal = Journal.reopen(path)
    journal.close()
    journal.close()
    ledger = Ledger(journal)
    one_line(lambda: ledger.record(STEP), "ledger.jsonl is closed")
    assert ledger.steps == 6


def test_a_full_disk_stops_the_run_and_counts_nothing(path, monkeypatch):
    written(path)
    ledger = Ledger(Journal.reopen(path))

    def half(stream, line):
        stream.write(line[: len(line) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_put", half)
        one_line(lambda: ledger.record(STEP), "no space left", "resume the run")
    one_line(lambda: ledger.record(STEP), "is closed")
    assert ledger.steps == read(path).steps == 6
    with Journal.reopen(path) as journal:
        Ledger(journal).record(STEP)
    assert read(path).steps == 7


def test_every_torn_end_is_cut_and_the_journal_goes_on(path):
    raw = written(path, steps=2)
    lines = raw.splitlines(keepends=True)
    start = len(b"".join(lines[:2]))
    for end in range(start, len(b"".join(lines[:3]))):
        path.write_bytes(raw[:end])
        complete = end == len(b"".join(lines[:3])) - 1
        assert read(path).steps == (3 if complete else 1)
        with Journal.reopen(path) as journal:
            Ledger(journal).record(Gaussian(5.0))
        assert read(path).entries["train"][Gaussian(5.0)] == 1
        assert read(path).steps == (4 if complete else 2)


def law_no_flip_under_counts(path, masks):
    """Whatever byte of a finished journal changes: it is noticed, or the count is no smaller."""
    raw = written(path, steps=2)
    for place in range(len(raw)):
        for mask in masks:
            flipped = bytearray(raw)
            flipped[place] ^= mask
            path.write_bytes(flipped)
            steps, notes = counted(path)
            assert steps >= 3, f"byte {place} ^ {mask}"
            assert "seen" in notes, f"byte {place} ^ {mask}"


def counted(path):
    """Return steps and notes; without end where the journal is refused."""
    try:
        ledger = read(path)
    except JournalError as error:
        said = str(error)
    else:
        return ledger.steps, ledger.notes
    assert "\n" not in said
    assert str(path) in said
    return math.inf, ("seen",)


def test_no_flip_under_counts(path):
    law_no_flip_under_counts(path, masks=[1, 0x28])


@pytest.mark.slow
def test_no_flip_of_more_kinds_under_counts(path):
    law_no_flip_under_counts(path, masks=[*(1 << bit for bit in range(8)), 0x07, 0x0F, 0x3F, 0xFF])


def test_mutant_line_without_end_is_always_torn(path, monkeypatch):
    monkeypatch.setattr(module, "_looks_sealed", lambda line: False)
    with pytest.raises(AssertionError):
        law_no_flip_under_counts(path, masks=[1])


def test_mutant_checksum_not_looked_at(path, monkeypatch):
    def trusting(path, number, line, before):
        return module.json.loads(line), line[-18:-2].decode()

    monkeypatch.setattr(module, "_opened", trusting)
    monkeypatch.setattr(module.validation, "count", lambda name, value, **least: value)
    with pytest.raises((AssertionError, ValueError)):
        law_no_flip_under_counts(path, masks=[1, 2, 3])


@pytest.mark.parametrize("change", ["drop", "swap", "repeat"])
def test_whole_lines_cannot_be_moved(path, change):
    lines = written(path).splitlines(keepends=True)
    moved = {"drop": lines[:1] + lines[2:], "swap": [lines[0], lines[2], lines[1], *lines[3:]]}
    path.write_bytes(b"".join(moved.get(change, [*lines[:2], *lines[1:]])))
    one_line(lambda: read(path), "ledger.jsonl line", "is damaged")


def test_a_newer_format_is_named(path, monkeypatch):
    monkeypatch.setattr(module, "FORMAT", 2)
    written(path)
    monkeypatch.undo()
    one_line(lambda: read(path), "format 2")


def test_appending_is_cheap(path, monkeypatch):
    monkeypatch.setattr(module, "_sync", lambda _: None)
    with Journal.create(path) as journal:
        ledger = Ledger(journal)
        ledger.record(STEP)
        start = time.perf_counter()
        for _ in range(2000):
            ledger.record(STEP)
        assert (time.perf_counter() - start) / 2000 < 2e-4


def _child(place, order, die, ready):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    ready.set()
    releasing.run(Path(place), order, die)


def killed(place, order="record-first", die=0, after=0.05):
    """Run the child until it kills itself, or for `after` seconds."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_child, args=(place, order, die, ready))
    child.start()
    ready.wait(10)
    if not die:
        time.sleep(after)
        os.kill(child.pid, signal.SIGKILL)
    child.join(20)
    assert child.exitcode == -signal.SIGKILL


def counts(place):
    applied = place / "applied"
    return read(place / "ledger.jsonl").steps, applied.stat().st_size if applied.exists() else 0


def law_recorded_before_applied(place, order, deaths):
    """However a run dies, no more was applied than is recorded, and at most one record a death is in excess."""
    for number, death in enumerate(deaths, 1):
        killed(place, order, **death)
        recorded, applied = counts(place)
        assert applied <= recorded <= applied + number


def test_death_between_record_and_apply(tmp_path):
    law_recorded_before_applied(tmp_path, "record-first", [{"die": 1}, {"die": 7}, {"die": 2}])
    assert counts(tmp_path) == (10, 7)


def test_death_at_random_moments(tmp_path):
    moments = random.Random(0)
    law_recorded_before_applied(
        tmp_path, "record-first", [{"after": 0.03 + moments.uniform(0, 0.05)} for _ in range(12)]
    )
    recorded, applied = counts(tmp_path)
    assert applied > 12
    assert recorded >= applied


def test_mutant_record_after_apply(tmp_path):
    with pytest.raises(AssertionError):
        law_recorded_before_applied(tmp_path, "apply-first", [{"die": 3}])


def test_the_child_runs_by_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.privacy.releasing", str(tmp_path), "record-first", "2"], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert counts(tmp_path) == (2, 1)
