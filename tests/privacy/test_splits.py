"""Releases about the same records are added up: splits are disjoint only where that is known, declared or stated."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dplit.privacy import Gaussian, Ledger, Target, epsilon, steps_within
from dplit.privacy import splits as module
from dplit.privacy.splits import Splits, pairs_of

DELTA = 1e-5
NAMES = ["train", "validation/0", "validation/1", "test"]
pairs = st.sets(st.sampled_from([frozenset(pair) for pair in combinations(NAMES, 2)]))


def all_sets(names: list[str]) -> chain[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))


def law_no_record_is_in_more(disjoint: set[frozenset[str]], overlapping: set[frozenset[str]], times: list[int]) -> None:
    """Whatever set of splits one record may be in, its releases together are no more than what is stated."""
    ledger = Ledger()
    for pair in disjoint:
        ledger.declare_disjoint(*pair)
    for pair in overlapping:
        ledger.declare_overlapping(*pair)
    for name, count in zip(NAMES, times, strict=True):
        ledger.record(Gaussian(4.0), count, name)
    stated = ledger.epsilon(DELTA)
    possible = []
    for names in all_sets(NAMES):
        two = [frozenset(pair) for pair in combinations(names, 2)]
        if all(pair in overlapping or (pair not in disjoint and "train" not in pair) for pair in two):
            possible.append(epsilon([(Gaussian(4.0), sum(times[NAMES.index(name)] for name in names))], DELTA))
    assert stated.upper == pytest.approx(max(bound.upper for bound in possible), rel=1e-12)


@given(pairs, pairs, st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_no_record_is_in_more(
    disjoint: set[frozenset[str]], overlapping: set[frozenset[str]], times: list[int]
) -> None:
    law_no_record_is_in_more(disjoint, overlapping, times)


def test_mutant_the_larger_of_the_two_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Splits, "together", lambda self, names: [(name,) for name in names])
    with pytest.raises(AssertionError):
        law_no_record_is_in_more(set(), set(), [1, 4, 4, 4])


def test_two_loaders_over_the_same_records_and_a_test() -> None:
    """Nine releases of σ = 4 about the same records are ε = 3.15 at δ = 1e-5, not the 1.99 of four of them."""
    ledger = Ledger()
    for split, times in {"validation/0": 4, "validation/1": 4, "test": 1}.items():
        ledger.record(Gaussian(4.0), times, split)
    assert ledger.epsilon(DELTA).upper == pytest.approx(3.1465, rel=1e-3)
    ledger.declare_disjoint()
    assert ledger.epsilon(DELTA).upper == pytest.approx(1.9929, rel=1e-3)


def test_what_was_seen_beats_what_was_declared() -> None:
    splits = Splits(pairs_of(["train", "test"]), pairs_of(["train", "test"]))
    assert splits.may_share("train", "test")
    assert not splits.is_declared("train", "test")


def test_what_is_assumed_and_what_is_declared_is_told_apart() -> None:
    splits = Splits(pairs_of(["test", "validation"]))
    assert splits.assumed(["train", "validation", "test"]) == [("test", "train"), ("train", "validation")]
    assert splits.declared(["train", "validation", "test"]) == [("test", "validation")]
    everything = Splits(pairs_of([Splits.ALL]))
    assert everything.assumed(["train", "validation"]) == []
    assert everything.copied().together(["a", "b"]) == [("a",), ("b",)]


def test_a_target_is_kept_with_what_was_released_of_the_same_records() -> None:
    """Steps stop where they and the statistics of the same records together would pass the target."""
    target, step = Target(3.0, DELTA), Gaussian(20.0)
    for overlap in (False, True):
        ledger = Ledger()
        ledger.record(Gaussian(2.0), split="validation")
        if overlap:
            ledger.declare_overlapping("train", "validation")
        steps = steps_within(target, step, ledger)
        ledger.record(step, steps)
        assert ledger.epsilon(DELTA).upper <= target.epsilon
        ledger.record(step)
        assert ledger.epsilon(DELTA).upper > target.epsilon


def test_the_journal_alone_says_it_all(tmp_path: object) -> None:
    from pathlib import Path

    from dplit.privacy import Journal, read

    place = Path(str(tmp_path)) / "ledger.jsonl"
    with Journal.create(place) as journal:
        ledger = Ledger(journal)
        for split in NAMES:
            ledger.record(Gaussian(5.0), split=split)
        ledger.declare_disjoint("validation/0", "validation/1")
        ledger.declare_overlapping("test", "train")
        ledger.declare_groups(["a", "b"])
        state = ledger.state_dict()
    for again in (read(place), Ledger.resume({**state, "journal": None}, None)):
        assert again.epsilon(DELTA) == ledger.epsilon(DELTA)
        assert again.groups == ("a", "b")
        assert again.splits.together(NAMES) == ledger.splits.together(NAMES)
