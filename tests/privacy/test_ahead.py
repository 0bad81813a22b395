"""A statement on disk never says less than the journal beside it, whenever the process ends."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dplit import files
from dplit.errors import JournalError, PrivacyError
from dplit.privacy import Gaussian, Journal, Ledger, Record, read
from dplit.privacy import journal as journals
from dplit.privacy.ahead import Ahead
from dplit.privacy.head import Head
from dplit.privacy.journal import load
from dplit.privacy.statement import AHEAD, FINAL, Facts, statement_path, write_statement

DELTA = 1e-5
STEP, OTHER = Gaussian(9.0), Gaussian(30.0)
FACTS = Facts(DELTA, groups=["a"])


class Killed(BaseException):
    """The process ends here."""


def keep(ledger: Ledger, folder: Path, facts: Facts = FACTS) -> None:
    ledger.ahead.keep(folder, lambda stated, recorded: write_statement(folder, stated, facts, recorded))


def never_behind(folder: Path) -> None:
    """Every statement in a folder says at least what the journal of its run says."""
    for path in folder.glob("ledger*.jsonl"):
        try:
            ledger = read(path)
        except JournalError:
            assert path.stat().st_size == 0, path
            continue
        place = statement_path(folder, ledger.run_id)
        if place is None:
            continue
        stated = json.loads(place.read_text())
        assert stated["epsilon"] >= ledger.epsilon(stated["delta"]).upper
        assert stated["steps"] >= ledger.steps
        for split in ledger.entries:
            assert stated["splits"][split] >= ledger.epsilon(stated["delta"], split=split).upper
        assert set(ledger.notes) <= set(stated["voided_by"])
        if stated["recorded"] is not None:
            assert stated["recorded"]["entries"] <= len(load(path).entries)


def story(folder: Path) -> Iterator[None]:
    """A fit, statistics after it, more charged by another process, and a second run in the same folder."""
    with Journal.create(folder / "ledger.jsonl") as journal:
        ledger = Ledger(journal)
        keep(ledger, folder)
        ledger.ahead.plan(ledger, Record(STEP, 4, "train"))
        yield
        for step in range(6):
            ledger.record(STEP)
            if step % 2:
                ledger.record(OTHER, split="validation")
            yield
        ledger.note("a remark")
        ledger.declare_overlapping("train", "validation")
        ledger.ahead.settle(ledger)
        yield
        ledger.record(OTHER, split="test")
        yield
    with Journal.reopen(folder / "ledger.jsonl") as journal:
        again = Ledger(journal)
        again.record(Gaussian(1.0))
        yield
    with Journal.create(folder / "ledger-2.jsonl") as journal:
        second = Ledger(journal)
        keep(second, folder)
        second.ahead.plan(second, Record(STEP, 1, "train"))
        second.record(STEP)
        second.ahead.settle(second)
    yield


def told(folder: Path) -> None:
    for _ in story(folder):
        never_behind(folder)


killing = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A process that is killed closes no file."""


class Kill:
    """Ends the process before the k-th thing that it does to a file."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        for owner, name in [(journals, "_put"), (files.os, "replace"), (Head, "write")]:
            patch.setattr(owner, name, self.counted(getattr(owner, name)))
        for owner, name in [(journals, "_sync"), (files.os, "fsync")]:
            patch.setattr(owner, name, self.counted(lambda descriptor: None))

    def counted(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return act(*given)

        return counting


def law_a_kill_leaves_no_statement_behind(folder: Path) -> int:
    """Kill the story before each thing it does to a file; return how many there are."""
    for k in range(1000):
        place = folder / str(k)
        with pytest.MonkeyPatch.context() as patch:
            kill = Kill(patch, k)
            place.mkdir()
            with suppress(Killed):
                list(story(place))
        never_behind(place)
        if kill.left >= 0:
            return k
    raise AssertionError("the story does not end")


@killing
def test_a_kill_between_any_two_writes_leaves_no_statement_behind(tmp_path: Path) -> None:
    assert law_a_kill_leaves_no_statement_behind(tmp_path) > 60


MUTANTS: dict[str, dict[str, Callable[..., Any]]] = {
    "statement at start and end only": {"reach": lambda self, ledger, entry: None},
    "statement of what is there, not of what comes": {
        "_planned": lambda self, ledger, stated, entry=None: ledger.copied(),
    },
    "steps alone": {"_counted": lambda self, ledger, record: record.split != "train"},
    "nothing beside a journal that goes on": {"_adopt": lambda self, ledger: None},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method, broken in MUTANTS[name].items():
        monkeypatch.setattr(Ahead, method, broken)
    with pytest.raises((AssertionError, KeyError)):
        told(tmp_path)


@killing
def test_mutant_journal_before_the_statement_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def later(self: Ledger, event: Any, times: int = 1, split: str = "train", unit: str | None = None) -> Any:
        record = Record(event, times, split, unit)
        wait = self.journal.begin(record) if self.journal else None
        self.ahead.reach(self, record)
        self._add(record)
        return wait or (lambda: None)

    monkeypatch.setattr(Ledger, "begin", later)
    with pytest.raises((AssertionError, KeyError)):
        law_a_kill_leaves_no_statement_behind(tmp_path)


acts = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.sampled_from(["train", "validation", "test"]), st.integers(1, 40)),
        st.tuples(st.just("plan"), st.just("train"), st.integers(0, 30)),
        st.tuples(st.just("settle"), st.just(""), st.just(0)),
        st.tuples(st.just("overlap"), st.sampled_from(["validation", "test"]), st.just(0)),
        st.tuples(st.just("reopen"), st.just(""), st.just(0)),
    ),
    max_size=10,
)


@killing
@settings(max_examples=25, deadline=None)
@given(acts)
def test_whatever_happens_in_whatever_order(happening: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = Ledger()
        ledger.attach(Journal.create(folder / "ledger.jsonl", ledger.run_id))
        keep(ledger, folder)
        ledger.ahead.settle(ledger)
        for act, split, number in happening:
            if act == "record":
                ledger.record(STEP, number, split)
            elif act == "plan":
                ledger.ahead.plan(ledger, Record(STEP, number or 1, split)._replace(times=number))
            elif act == "settle":
                ledger.ahead.settle(ledger)
            elif act == "overlap":
                ledger.declare_overlapping("train", split)
            else:
                assert ledger.journal is not None
                ledger.journal.close()
                ledger.reopen()
            never_behind(folder)
        assert ledger.journal is not None
        ledger.journal.close()


# -- what it says and what it costs


def begun(folder: Path, planned: int) -> Ledger:
    ledger = Ledger()
    ledger.attach(Journal.create(folder / "ledger.jsonl", ledger.run_id))
    keep(ledger, folder)
    ledger.ahead.plan(ledger, Record(STEP, planned, "train"))
    return ledger


def stated(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "privacy.json").read_text())
    return found


def test_the_plan_is_stated_in_full_before_the_first_release(tmp_path: Path) -> None:
    ledger = begun(tmp_path, 100)
    found = stated(tmp_path)
    assert (found["status"], found["steps"], found["recorded"]["steps"]) == (AHEAD, 100, 0)
    text = (tmp_path / "privacy.md").read_text()
    assert "Written ahead, while training runs" in text
    assert "after 100 steps, of which 0 were recorded" in text
    assert f"python -m dplit.account --journal ledger.jsonl --delta {DELTA:g}" in text
    for _ in range(3):
        ledger.record(STEP)
    assert stated(tmp_path) == found
    ledger.ahead.settle(ledger)
    assert (stated(tmp_path)["status"], stated(tmp_path)["steps"]) == (FINAL, 3)
    assert stated(tmp_path)["epsilon"] == ledger.epsilon(DELTA).upper
    assert "The figures are final" in (tmp_path / "privacy.md").read_text()
    ledger.journal.close()


def test_without_a_plan_it_is_rewritten_a_few_times_and_not_at_every_step(tmp_path: Path) -> None:
    ledger = begun(tmp_path, 0)
    written = set()
    for _ in range(200):
        ledger.record(STEP)
        written.add(stated(tmp_path)["steps"])
        assert ledger.steps <= stated(tmp_path)["steps"] <= 2 * ledger.steps
    assert len(written) < 10
    ledger.journal.close()


def test_a_record_that_is_counted_already_costs_no_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = begun(tmp_path, 50)
    monkeypatch.setattr(Ledger, "epsilon", lambda *given, **named: pytest.fail("the accountant was asked"))
    for _ in range(50):
        ledger.record(STEP)
    ledger.journal.close()


def test_a_full_disk_stops_the_step_before_it_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = begun(tmp_path, 2)
    ledger.record(STEP, 2)
    before = (tmp_path / "privacy.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dplit.files.os.fsync", full)
        with pytest.raises(PrivacyError, match=r"^[^\n]*privacy statement cannot be written[^\n]*$"):
            ledger.record(STEP)
    assert ledger.steps == read(tmp_path / "ledger.jsonl").steps == 2
    assert (tmp_path / "privacy.json").read_bytes() == before
    ledger.record(STEP)
    ledger.ahead.settle(ledger)
    assert stated(tmp_path)["steps"] == 3
    ledger.journal.close()


def test_a_statement_that_was_settled_in_one_folder_only_counts_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full when the second folder's was written: what comes is stated anew, in both."""
    ledger = begun(tmp_path / "one", 9)
    keep(ledger, tmp_path / "two")
    ledger.ahead.plan(ledger, Record(STEP, 9, "train"))
    ledger.record(STEP)
    real = files.os.replace

    def full(source: Any, target: Any) -> None:
        if "two" in str(target):
            raise OSError("no space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(PrivacyError, match="cannot be written"):
            ledger.ahead.settle(ledger)
    assert (stated(tmp_path / "one")["steps"], stated(tmp_path / "two")["steps"]) == (1, 9)
    ledger.record(STEP)
    assert (stated(tmp_path / "one")["steps"], stated(tmp_path / "two")["steps"]) == (2, 2)
    ledger.journal.close()


def test_a_record_that_the_disk_half_took_counts_in_the_final_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the line but its end is on the disk: whoever reads the journal counts it, though nothing was released."""
    ledger = begun(tmp_path, 5)

    def all_but_the_end(stream: Any, line: bytes) -> None:
        stream.write(line[:-1])
        raise OSError("no space left on device")

    monkeypatch.setattr(journals, "_put", all_but_the_end)
    with pytest.raises(JournalError):
        ledger.record(STEP)
    ledger.ahead.settle(ledger)
    assert read(tmp_path / "ledger.jsonl").steps == 1
    never_behind(tmp_path)


def test_a_plan_without_a_finite_epsilon_is_stated_step_by_step(tmp_path: Path) -> None:
    def write(planned: Ledger, recorded: Ledger | None) -> None:
        if planned.steps > 3:
            raise PrivacyError("no finite bound")
        write_statement(tmp_path, planned, FACTS, recorded)

    ledger = Ledger()
    ledger.attach(Journal.create(tmp_path / "ledger.jsonl", ledger.run_id))
    ledger.ahead.keep(tmp_path, write)
    ledger.ahead.plan(ledger, Record(STEP, 10**6, "train"))
    for _ in range(3):
        ledger.record(STEP)
        never_behind(tmp_path)
    with pytest.raises(PrivacyError, match="no finite bound"):
        ledger.record(STEP)
    assert read(tmp_path / "ledger.jsonl").steps == 3
    ledger.journal.close()


def test_every_folder_that_has_a_statement_is_kept(tmp_path: Path) -> None:
    """Two strategies share a ledger: each has its run folder, and both folders' statements count both."""
    ledger = begun(tmp_path / "one", 2)
    ledger.record(STEP, 2)
    ledger.ahead.settle(ledger)
    keep(ledger, tmp_path / "two")
    ledger.ahead.plan(ledger, Record(STEP, 5, "train"))
    assert stated(tmp_path / "one")["steps"] == stated(tmp_path / "two")["steps"] == 7
    ledger.journal.close()


def test_what_another_process_left_is_kept_up_with_all_it_said(tmp_path: Path) -> None:
    ledger = begun(tmp_path, 3)
    ledger.record(STEP, 3)
    ledger.ahead.settle(ledger)
    ledger.journal.close()
    before = stated(tmp_path)
    with Journal.reopen(tmp_path / "ledger.jsonl") as journal:
        Ledger(journal).record(OTHER, split="validation")
    after = stated(tmp_path)
    assert after["splits"].keys() == {"train", "validation"}
    same = ("unit", "policy", "released_without_charge", "versions", "sampling")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    never_behind(tmp_path)


def test_a_statement_that_cannot_be_brought_up_to_date_stops_the_record(tmp_path: Path) -> None:
    ledger = begun(tmp_path, 1)
    ledger.journal.close()
    (tmp_path / "privacy.json").write_text(json.dumps({"run_id": ledger.run_id, "epsilon": 0.0}))
    with (
        Journal.reopen(tmp_path / "ledger.jsonl") as journal,
        pytest.raises(PrivacyError, match="would say too little"),
    ):
        Ledger(journal).record(STEP)
    assert read(tmp_path / "ledger.jsonl").steps == 0


def test_two_runs_in_one_folder_keep_two_statements(tmp_path: Path) -> None:
    told(tmp_path)
    first, second = read(tmp_path / "ledger.jsonl"), read(tmp_path / "ledger-2.jsonl")
    assert stated(tmp_path)["run_id"] == second.run_id
    aside = tmp_path / f"privacy-{first.run_id[:8]}.json"
    assert json.loads(aside.read_text())["run_id"] == first.run_id
    assert first.run_id in aside.with_suffix(".md").read_text()
    assert sorted(p.name for p in tmp_path.glob("privacy*")) == sorted(
        [aside.name, aside.with_suffix(".md").name, "privacy.json", "privacy.md"]
    )


@pytest.mark.parametrize("content", ["[]", "{", json.dumps({"run_id": "../../elsewhere"})])
def test_what_is_no_statement_is_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / "privacy.json").write_text(content)
    begun(tmp_path, 1).journal.close()
    assert stated(tmp_path)["status"] == AHEAD
    assert sorted(path.name for path in tmp_path.glob("privacy*")) == ["privacy.json", "privacy.md"]
