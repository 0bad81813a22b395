"""A draw is cut into physical batches: every row once, in order, no more rows at a time than allowed, units never mixed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from dplit.errors import PrivacyError
from dplit.protocols import UnitSamples
from dplit.sampling.draws import Draw, NoBatch, PhysicalBatch, PhysicalCollate, cut_into_physical_batches


def unit(*rows: int, who: str | None = None) -> UnitSamples:
    samples = UnitSamples(rows)
    samples.who = who
    return samples


SIZES = st.lists(st.integers(1, 9), max_size=30)
MAX_ROWS = st.integers(1, 12)


def units_of(sizes: list[int]) -> list[UnitSamples]:
    """Units of consecutive numbers, so that every row can be told."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        unit(*range(start, start + size), who=f"unit {i}")
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def law_runs_hold_whole_units(cut: Any, sizes: list[int], max_rows: int) -> None:
    """Runs are the samples in order; each run fits, unless it is a single unit, and none could have taken the next unit."""
    samples = units_of(sizes)
    runs = list(cut(samples, max_rows))
    assert [sample for run in runs for sample in run] == samples
    rows = [sum(map(len, run)) for run in runs]
    assert all(count <= max_rows or len(run) == 1 for run, count in zip(runs, rows, strict=True))
    assert all(count + len(following[0]) > max_rows for count, following in zip(rows, runs[1:], strict=False))
    assert all(runs)


@given(SIZES, MAX_ROWS)
def test_runs_hold_whole_units(sizes: list[int], max_rows: int) -> None:
    law_runs_hold_whole_units(cut_into_physical_batches, sizes, max_rows)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda samples, n: [samples[i : i + n] for i in range(0, len(samples), n)],
        lambda samples, n: [[sample] for sample in samples],
        lambda samples, n: list(cut_into_physical_batches(samples[1:], n)),
        lambda samples, n: [[unit(row)] for sample in samples for row in sample],
    ],
    ids=["samples counted, not rows", "one by one", "the first left out", "units split"],
)
def test_mutant_cuts_are_caught(mutant: Any) -> None:
    with pytest.raises(AssertionError):
        law_runs_hold_whole_units(mutant, [3, 2, 4, 1, 1], 5)


def rows_of(part: PhysicalBatch) -> list[int]:
    return [row for piece in (part, *part.more) for row in piece.batch.tolist()]


def law_every_row_is_collated_once(sizes: list[int], max_rows: int) -> None:
    largest = 0

    def collate(samples: list[int]) -> Any:
        nonlocal largest
        largest = max(largest, len(samples))
        return default_collate(samples)

    draw = PhysicalCollate(collate, max_rows, 0.25, 50)(units_of(sizes))
    assert (draw.size, draw.rate, draw.records) == (len(sizes), 0.25, 50)
    assert [row for part in draw.parts for row in rows_of(part)] == list(range(sum(sizes)))
    assert largest <= max_rows
    assert [name for part in draw.parts for name in part.who or ()] == [f"unit {i}" for i in range(len(sizes))]
    for part in draw.parts:
        assert part.owner is not None
        assert part.rows == len(part.batch) == len(part.owner)
        assert part.units == len(part.owner.unique())
        assert not part.more or part.units == 1


@given(SIZES, MAX_ROWS)
def test_every_row_is_collated_once(sizes: list[int], max_rows: int) -> None:
    law_every_row_is_collated_once(sizes, max_rows)


def test_mutant_rows_beyond_the_limit_dropped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dplit.sampling.draws._pieces", lambda whole, max_rows: [unit(*whole[:max_rows], who=whole.who)]
    )
    with pytest.raises(AssertionError):
        law_every_row_is_collated_once([2, 9], 4)


def test_mutant_large_units_collated_at_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.sampling.draws._pieces", lambda whole, max_rows: [whole])
    with pytest.raises(AssertionError):
        law_every_row_is_collated_once([2, 9], 4)


def test_single_records_have_no_owner_and_no_name() -> None:
    draw = PhysicalCollate(default_collate, 3, 0.1, 20)([5, 6, 7, 8])
    assert [part.batch.tolist() for part in draw.parts] == [[5, 6, 7], [8]]
    assert [(part.owner, part.who, part.units, part.more) for part in draw.parts] == [
        (None, None, 3, ()),
        (None, None, 1, ()),
    ]


def test_an_empty_draw_has_no_parts() -> None:
    draw = PhysicalCollate(default_collate, 3, 0.1, 20)([])
    assert (draw.parts, draw.size) == ((), 0)


def test_the_limit_follows_where_it_is_shared_and_a_worker_gets_a_copy() -> None:
    collate = PhysicalCollate(default_collate, 3, 0.1, 20, shared=True)
    collate.max_rows = 2
    assert collate.max_rows == 2
    assert [part.rows for part in collate([1, 2, 3]).parts] == [2, 1]
    assert collate._max_rows.is_shared()


def test_a_draw_survives_a_process_boundary_and_is_no_collection() -> None:
    draw = pickle.loads(pickle.dumps(PhysicalCollate(default_collate, 3, 0.1, 20)([1, 2, 3, 4])))
    assert isinstance(draw, Draw)
    assert torch.cat([part.batch for part in draw.parts]).tolist() == [1, 2, 3, 4]
    assert not isinstance(draw, Iterable | Mapping)


READS = {
    "length": len,
    "entry": lambda draw: draw["x"],
    "first": lambda draw: len(draw[0]),
    "unpacked": lambda draw: [value for value, _ in [tuple(draw)]],
    "shape": lambda draw: draw.shape[0],
    "size": lambda draw: draw.size(0),
    "keys": lambda draw: draw.keys(),
    "listed": list,
    "contains": lambda draw: "x" in draw,
}


def law_a_read_tells_what_a_draw_is_and_not_its_size(read: Any) -> None:
    told = []
    for size in (0, 5):
        with pytest.raises(NoBatch, match=r"is no batch.*how many they are is private.*lambda batch: 12\)") as refused:
            read(PhysicalCollate(default_collate, 3, 0.25, 50)(list(range(size))))
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "\n" not in told[0]
    assert issubclass(NoBatch, PrivacyError)


@pytest.mark.parametrize("name", READS)
def test_a_draw_read_as_a_batch_says_what_it_is(name: str) -> None:
    law_a_read_tells_what_a_draw_is_and_not_its_size(READS[name])


def test_mutant_draws_with_a_length_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draw, "__len__", lambda draw: draw.size)
    with pytest.raises(pytest.fail.Exception):
        law_a_read_tells_what_a_draw_is_and_not_its_size(len)


def test_a_draw_has_no_attributes_of_a_batch() -> None:
    draw = PhysicalCollate(default_collate, 3, 0.25, 50)([1, 2])
    assert draw
    assert not any(hasattr(draw, name) for name in ("to", "pin_memory", "shape", "_fields", "__array__"))
    assert copy.copy(draw).size == copy.deepcopy(draw).size == 2
