import json
import math

import numpy as np
import pytest

from dplit.errors import ConfigurationError, JournalError, PrivacyError
from dplit.privacy import Bound, Gaussian, Journal, Ledger, Record, Sampled, epsilon, read
from dplit.privacy.journal import Declared
from dplit.privacy.ledger import joined
from tests.privacy import version_0_1_0

STEP = Sampled(0.01, [Gaussian(1.0), Gaussian(10.0)], {"a": Sampled(0.01, [Gaussian(2.0), Gaussian(math.inf)])})
PLAIN = Sampled(0.01, [Gaussian(1.0)])
DELTA = 1e-5


def test_entries_add_up_by_split():
    ledger = Ledger()
    ledger.record(PLAIN, times=np.int64(3))
    ledger.record(STEP)
    ledger.record(Sampled(0.01, [Gaussian(1)]))
    ledger.record(Gaussian(50), times=2, split="validation")
    assert {split: dict(events) for split, events in ledger.entries.items()} == {
        "train": {PLAIN: 4, STEP: 1},
        "validation": {Gaussian(50.0): 2},
    }
    assert ledger.steps == 5
    with pytest.raises(TypeError):
        ledger.entries["train"][PLAIN] = 0


def test_epsilon_is_the_accountants_and_the_largest_of_the_splits():
    ledger = Ledger()
    assert ledger.epsilon(DELTA) == Bound(0, 0, 0)
    ledger.record(PLAIN, times=100)
    ledger.record(Gaussian(50), times=3, split="validation")
    train, validation = epsilon({PLAIN: 100}, DELTA), epsilon({Gaussian(50): 3}, DELTA)
    assert ledger.epsilon(DELTA) == train
    assert ledger.epsilon(DELTA, split="validation") == validation
    assert ledger.epsilon(DELTA, split="test") == Bound(0, 0, 0)
    ledger.record(Gaussian(0.5), split="validation")
    assert ledger.epsilon(DELTA).upper > train.upper


def test_groups_pay_for_their_own_view():
    """At q = 1/92, T = 1840, σ = 1: a group clipped at 3/4, 1/2, 1/4 of the largest bound pays less."""
    rate, shares = 1 / 92, {"big": 1.0, "three": 0.75, "half": 0.5, "quarter": 0.25}
    views = {group: Sampled(rate, [Gaussian(1 / share)]) for group, share in shares.items()}
    ledger = Ledger()
    ledger.record(Sampled(rate, [Gaussian(1.0)], views), times=1840)
    ledger.record(Gaussian(1000.0), split="validation")
    found = ledger.by_group(1e-6, [*shares, "stranger"])
    for group, figure in {"big": 3.1037, "three": 1.8867, "half": 1.0838, "quarter": 0.4814}.items():
        assert figure - 5e-5 <= found[group].upper <= 1.01 * figure
        assert ledger.epsilon(1e-6, group=group) == found[group]
    assert found["stranger"] is None
    assert ledger.epsilon(1e-6, group="stranger") == ledger.epsilon(1e-6) == found["big"]


def test_one_event_without_views_leaves_only_the_headline():
    ledger = Ledger()
    ledger.record(STEP)
    assert ledger.by_group(DELTA, ["a"])["a"].upper < ledger.epsilon(DELTA).upper
    ledger.record(PLAIN)
    assert ledger.by_group(DELTA, ["a"]) == {"a": None}


def test_a_view_never_lowers_the_headline():
    ledger, bare = Ledger(), Ledger()
    ledger.record(STEP, times=50)
    bare.record(Sampled(0.01, STEP.releases), times=50)
    assert ledger.epsilon(DELTA) == bare.epsilon(DELTA)


@pytest.mark.parametrize(("event", "times", "split"), [(1.0, 1, "train"), (PLAIN, 0, "train"), (PLAIN, 1.5, "train")])
def test_what_cannot_be_recorded(event, times, split, tmp_path):
    with Journal.create(tmp_path / "ledger.jsonl") as journal:
        ledger = Ledger(journal)
        with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
            ledger.record(event, times, split)
        assert ledger.steps == read(journal.path).steps == 0


def law_resumed_equals_straight(tmp_path, keep):
    """A run interrupted and resumed has spent what a straight one has, counting steps its checkpoint missed."""
    straight, path = Ledger(), tmp_path / "ledger.jsonl"
    with Journal.create(path) as journal:
        ledger = Ledger(journal)
        for _ in range(5):
            ledger.record(STEP)
        ledger.note("fixed noise seed")
        state = json.loads(json.dumps(ledger.state_dict()))
        ledger.record(STEP, times=2)
    resumed = Ledger.resume(keep(state), path)
    resumed.record(STEP)
    resumed.record(Gaussian(30.0), split="validation")
    resumed.journal.close()
    straight.record(STEP, times=8)
    straight.record(Gaussian(30.0), split="validation")
    assert resumed.entries == straight.entries == read(path).entries
    assert resumed.epsilon(DELTA) == straight.epsilon(DELTA)
    assert resumed.run_id == ledger.run_id == read(path).run_id
    assert resumed.notes == ("fixed noise seed",)


def test_resumed_equals_straight(tmp_path):
    law_resumed_equals_straight(tmp_path, lambda state: state)


def test_mutant_ledger_left_out_of_the_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(JournalError, match="holds no usable ledger"):
        law_resumed_equals_straight(tmp_path, lambda state: {})


def test_mutant_resume_from_the_checkpoints_count(tmp_path, monkeypatch):
    real = Ledger._apply

    def only_the_checkpoint(self, contents):
        real(self, type(contents)(contents.run_id, contents.entries[:6], contents.sums, contents.size, False))

    monkeypatch.setattr(Ledger, "_apply", only_the_checkpoint)
    with pytest.raises(AssertionError):
        law_resumed_equals_straight(tmp_path, lambda state: state)


def a_run(path, steps=3):
    with Journal.create(path) as journal:
        ledger = Ledger(journal)
        for _ in range(steps):
            ledger.record(PLAIN)
        return ledger.state_dict()


def refuses(state, path, message):
    with pytest.raises(JournalError, match=r"^[^\n]+$") as caught:
        Ledger.resume(state, path)
    assert message in str(caught.value)
    if path is not None and path.exists():
        Journal.reopen(path).close()


def test_resume_refuses_a_missing_journal(tmp_path):
    state = a_run(tmp_path / "ledger.jsonl")
    refuses(state, tmp_path / "elsewhere.jsonl", "elsewhere.jsonl does not exist")
    refuses(state, None, "pass its ledger.jsonl")


def test_resume_refuses_another_runs_journal(tmp_path):
    state = a_run(tmp_path / "ledger.jsonl")
    a_run(tmp_path / "other.jsonl")
    refuses(state, tmp_path / "other.jsonl", "pass its own journal")


def test_resume_refuses_a_journal_behind_the_checkpoint(tmp_path):
    path = tmp_path / "ledger.jsonl"
    state = a_run(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    refuses(state, path, "2 entries, the checkpoint saw 3")


def test_resume_refuses_another_history(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Journal.create(path) as journal:
        state = {**Ledger(journal).state_dict()}
        journal.append(journal_record(PLAIN))
        state["journal"] = journal.mark
    path.unlink()
    with Journal.create(path, state["run_id"]) as journal:
        journal.append(journal_record(Gaussian(100.0)))
    refuses(state, path, "another history")


def journal_record(event):
    from dplit.privacy import Record

    return Record(event, 1, "train")


def test_resume_refuses_a_damaged_journal(tmp_path):
    path = tmp_path / "ledger.jsonl"
    state = a_run(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(JournalError, match=r"ledger\.jsonl line \d is damaged[^\n]*restore"):
        Ledger.resume(state, path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"entries": None},
        {"entries": [{}]},
        {"entries": [{"event": {"kind": "gaussian", "noise_multiplier": -1}, "times": 1, "split": "train"}]},
        {"entries": [{"event": Gaussian(1.0).to_dict(), "times": 0, "split": "train"}]},
        {"notes": 3},
        {"run_id": "another"},
        {"journal": {}},
        {"journal": {"entries": -1, "sum": ""}},
        {"journal": 7},
    ],
)
def test_resume_refuses_a_hostile_state(change, tmp_path):
    path = tmp_path / "ledger.jsonl"
    state = a_run(path)
    refuses({**state, **change}, path, "")
    refuses({}, path, "")
    refuses(None, path, "")


def test_a_ledger_without_journal_lives_in_its_state():
    ledger = Ledger()
    ledger.record(STEP, times=3)
    ledger.note("note")
    resumed = Ledger.resume(json.loads(json.dumps(ledger.state_dict())), None)
    assert (resumed.entries, resumed.notes, resumed.run_id) == (ledger.entries, ledger.notes, ledger.run_id)


def test_notes_are_kept_once(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Journal.create(path) as journal:
        ledger = Ledger(journal)
        ledger.note("fixed noise seed")
        ledger.note("fixed noise seed")
        ledger.note("ε was looked at")
    assert read(path).notes == ("fixed noise seed", "ε was looked at")
    assert len(path.read_text().splitlines()) == 3


# -- one object for the whole life of a model


def law_attaching_loses_nothing(ledger, tmp_path):
    """What a ledger held before it got a journal counts after it, for the ledger and for whoever reads the file."""
    ledger.record(Gaussian(0.5))
    ledger.note("remark")
    before = ledger.epsilon(DELTA)
    with Journal.create(tmp_path / "ledger.jsonl", ledger.run_id) as journal:
        ledger.attach(journal)
        ledger.record(PLAIN, times=10)
    assert ledger.epsilon(DELTA).upper >= before.lower
    on_disk = read(tmp_path / "ledger.jsonl")
    assert on_disk.entries == ledger.entries
    assert on_disk.notes == ledger.notes == ("remark",)


def test_attaching_loses_nothing(tmp_path):
    law_attaching_loses_nothing(Ledger(), tmp_path)


def test_mutant_that_starts_an_empty_journal_is_caught(tmp_path):
    class Forgetful(Ledger):
        def attach(self, journal):
            self._continue_in(journal)

    with pytest.raises(AssertionError):
        law_attaching_loses_nothing(Forgetful(), tmp_path)


def test_only_a_new_journal_of_the_same_run_is_attached(tmp_path):
    ledger, other = Ledger(), Journal.create(tmp_path / "other.jsonl")
    with other, pytest.raises(JournalError, match="is not a new journal of run"):
        ledger.attach(other)
    with Journal.create(tmp_path / "ledger.jsonl", ledger.run_id) as journal:
        journal.append(Record(PLAIN, 1, "train"))
    with Journal.reopen(tmp_path / "ledger.jsonl") as used, pytest.raises(JournalError, match="is not a new journal"):
        ledger.attach(used)
    with Journal.create(tmp_path / "mine.jsonl", ledger.run_id) as mine:
        ledger.attach(mine)
        with pytest.raises(JournalError, match=r"kept in .*mine.jsonl already"):
            ledger.attach(mine)


def test_what_another_ledger_wrote_meanwhile_counts(tmp_path):
    first = Ledger()
    first.attach(Journal.create(tmp_path / "ledger.jsonl", first.run_id))
    first.record(PLAIN)
    first.journal.close()
    with Journal.reopen(tmp_path / "ledger.jsonl") as journal:
        Ledger(journal).record(PLAIN, times=5)
    first.reopen()
    assert first.steps == read(tmp_path / "ledger.jsonl").steps == 6
    first.journal.close()


def test_restoring_never_drops_what_another_run_spent(tmp_path):
    saved = Ledger()
    saved.record(PLAIN)
    state, pre_charged = saved.state_dict(), Ledger()
    pre_charged.record(Gaussian(0.5))
    with pytest.raises(JournalError, match="holds releases of another run"):
        pre_charged.restore(state, None)
    assert pre_charged.entries["train"] == {Gaussian(0.5): 1}


def law_a_unit_is_kept(tmp_path):
    """Persons and records are never added up, in memory, after a checkpoint, and after a journal."""
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger()
    ledger.attach(Journal.create(path, ledger.run_id))
    ledger.record(PLAIN, unit="user_id")
    ledger.journal.close()
    for again in (ledger, Ledger.resume(json.loads(json.dumps(ledger.state_dict())), path), read(path)):
        assert again.units == {"train": "user_id"}
        with pytest.raises(PrivacyError, match="unit='user_id'"):
            again.check_unit(None)
        if again.journal is not None:
            again.journal.close()


def test_a_unit_is_kept(tmp_path):
    law_a_unit_is_kept(tmp_path)


def test_mutant_journal_without_units_is_caught(tmp_path, monkeypatch):
    honest = Journal.begin
    monkeypatch.setattr(Journal, "begin", lambda self, record: honest(self, record._replace(unit=None)))
    with pytest.raises(AssertionError):
        law_a_unit_is_kept(tmp_path)


def test_a_state_of_version_0_1_gets_its_unit_from_the_checkpoint(tmp_path):
    """Version 0.1.0 kept the unit beside the ledger, and not in the journal."""
    old = Ledger()
    old.attach(Journal.create(tmp_path / "ledger.jsonl", old.run_id))
    old.record(PLAIN)
    old.journal.close()
    state = {key: value for key, value in old.state_dict().items() if key != "units"}
    ledger = Ledger()
    ledger.restore(state, tmp_path / "ledger.jsonl", unit="user_id")
    ledger.record(PLAIN, unit="user_id")
    ledger.journal.close()
    again = Ledger.resume(json.loads(json.dumps(ledger.state_dict())), tmp_path / "ledger.jsonl")
    assert again.units == {"train": "user_id"}
    assert again.steps == 2
    again.journal.close()


MESH = 1e-12
"""By how much two certified bounds of the same events differ whose meshes are not the same, relative to ε."""


def test_a_journal_and_a_checkpoint_of_version_0_1_are_read(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(version_0_1_0.JOURNAL)
    for ledger in (read(path), Ledger.resume(version_0_1_0.STATE, path)):
        assert ledger.run_id == version_0_1_0.RUN_ID
        assert ledger.epsilon(DELTA) == pytest.approx(version_0_1_0.EPSILON, rel=MESH)
        assert {split: sum(events.values()) for split, events in ledger.entries.items()} == {
            "train": 4,
            "validation": 2,
        }
        assert ledger.notes == tuple(version_0_1_0.STATE["notes"])
        assert ledger.state_dict()["entries"] == version_0_1_0.STATE["entries"]
        if ledger.journal is not None:
            ledger.record(PLAIN)
            ledger.journal.close()
            assert read(path).steps == 5


def test_a_journal_of_version_0_1_that_was_changed_is_refused(tmp_path):
    (tmp_path / "ledger.jsonl").write_text(version_0_1_0.JOURNAL.replace('"times":3', '"times":1'))
    with pytest.raises(JournalError, match=r"^[^\n]* line 2 is damaged[^\n]*$"):
        read(tmp_path / "ledger.jsonl")


# -- what else the journal must know


def test_declarations_come_back_from_journal_and_checkpoint(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger()
    ledger.declare_disjoint("validation", "test")
    ledger.attach(Journal.create(path, ledger.run_id))
    for _ in range(2):
        ledger.declare_groups(["a", "b"])
        ledger.declare_overlapping("train", "validation")
        ledger.declare_disjoint("validation", "test")
    ledger.journal.close()
    assert len(path.read_text().splitlines()) == 4
    state = json.loads(json.dumps(ledger.state_dict()))
    resumed = Ledger.resume(state, path)
    resumed.journal.close()
    for again in (read(path), resumed, Ledger.resume({**state, "journal": None}, None), ledger.copied()):
        assert again.groups == ("a", "b")
        assert again.splits.disjoint == ledger.splits.disjoint == {frozenset(("validation", "test"))}
        assert again.splits.overlapping == ledger.splits.overlapping == {frozenset(("train", "validation"))}


@pytest.mark.parametrize("change", [{"declared": 3}, {"declared": [["unit", ["train"]]]}, {"declared": [[1]]}])
def test_resume_refuses_hostile_declarations(change, tmp_path):
    path = tmp_path / "ledger.jsonl"
    refuses({**a_run(path), **change}, path, "holds no usable ledger")


def test_a_declaration_of_a_later_version_is_refused(tmp_path):
    with Journal.create(tmp_path / "ledger.jsonl") as journal:
        journal.declare(Declared("colour", ("blue",)))
    with pytest.raises(JournalError, match=r"^[^\n]*line 2 declares 'colour'[^\n]*newer dplit$"):
        read(tmp_path / "ledger.jsonl")


def test_groups_are_those_of_the_events_where_none_are_declared():
    ledger = Ledger()
    ledger.record(STEP)
    ledger.record(Gaussian(3.0))
    assert ledger.groups == ("a",)


def test_splits_are_of_one_unit():
    ledger = Ledger()
    ledger.record(PLAIN, unit="user")
    with pytest.raises(PrivacyError, match="unit=None"):
        ledger.record(Gaussian(3.0), split="validation")
    assert ledger.unit == "user"


def test_a_journal_of_version_0_1_says_its_unit_by_itself_once_a_checkpoint_told_it(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(version_0_1_0.JOURNAL)
    for _ in range(2):
        ledger = Ledger()
        ledger.restore(version_0_1_0.STATE, path, unit="user")
        ledger.journal.close()
    assert set(read(path).units.values()) == {"user"}
    assert path.read_text().count('"declared":"unit"') == 2  # train and validation, once each


def test_ledgers_are_joined_with_the_least_that_each_knows():
    one, other = Ledger(), Ledger()
    for ledger in (one, other):
        for split in ("train", "validation", "test"):
            ledger.record(Gaussian(5.0), split=split)
        ledger.declare_disjoint("validation", "test")
    assert joined([one, other]).epsilon(DELTA) == epsilon({Gaussian(5.0): 2}, DELTA)
    other.declare_overlapping("validation", "test")
    assert joined([one, other]).epsilon(DELTA) == epsilon({Gaussian(5.0): 4}, DELTA)


def test_a_copy_of_a_ledger_goes_on_in_no_other_journal(tmp_path):
    ledger = Ledger()
    ledger.attach(Journal.create(tmp_path / "ledger.jsonl", ledger.run_id))
    ledger.journal.close()
    for again in (ledger.copied(), read(tmp_path / "ledger.jsonl")):
        journal = Journal.create(tmp_path / f"{id(again)}.jsonl", ledger.run_id)
        with journal, pytest.raises(JournalError, match=r"kept in .*ledger\.jsonl already; go on there"):
            again.attach(journal)
        again.reopen()
        again.record(PLAIN)
        again.journal.close()
    assert read(tmp_path / "ledger.jsonl").steps == 2
    with pytest.raises(JournalError, match="no journal to open again"):
        Ledger().reopen()
