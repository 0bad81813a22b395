"""A record that a data set is seen to hold twice is refused, whatever it is wrapped in; different records never are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, random_split

from dplit.data.units import Copies
from dplit.errors import PrivacyError
from dplit.sampling import repeats
from dplit.sampling.loader import poisson_loader
from dplit.sampling.repeats import check_repeats, origins


class Numbers(Dataset):
    """Records that say where they come from: (name of the data set, index)."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[str, int]:
        return (self.name, range(self.size)[index])


class Changed(Dataset):
    """A user's own wrapper, which changes samples one by one."""

    def __init__(self, wrapped: Dataset) -> None:
        self.wrapped = wrapped

    def __len__(self) -> int:
        return len(self.wrapped)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.wrapped[index]


BASES = [Numbers("a", 5), Numbers("b", 3)]


@st.composite
def nested(draw: st.DrawFn, depth: int = 3) -> Dataset:
    """A data set made of two others by subsets, concatenations and wrappers, some of them with repeats."""
    kind = draw(st.sampled_from(["base", "subset", "concat", "changed"] if depth else ["base"]))
    if kind == "base":
        return draw(st.sampled_from(BASES))
    if kind == "concat":
        return ConcatDataset([draw(nested(depth - 1)) for _ in range(draw(st.integers(1, 2)))])
    inner: Any = draw(nested(depth - 1))
    if kind == "changed":
        return Changed(inner)
    size = len(inner)
    return Subset(inner, draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=6)))


def law_repeats_are_told_from_what_records_say(dataset: Any) -> None:
    counts = Counter(dataset[i] for i in range(len(dataset)))
    if max(counts.values()) == 1:
        check_repeats(dataset)
        return
    with pytest.raises(PrivacyError, match=f"is in it {max(counts.values())} times") as refused:
        check_repeats(dataset)
    named = int(str(refused.value).split()[1])
    assert counts[dataset[named]] == max(counts.values())
    assert "\n" not in str(refused.value)


@settings(deadline=None, derandomize=True)
@given(nested())
def test_repeats_are_told_from_what_records_say(dataset: Any) -> None:
    law_repeats_are_told_from_what_records_say(dataset)


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("_innermost", lambda dataset: dataset),
        ("_part", lambda whole, indices: repeats.Origins(*(column[: len(set(indices))] for column in whole))),
        ("_whole", lambda key, size, known, first=0: repeats.Origins(np.full(size, len(known)), np.arange(size))),
    ],
    ids=["wrappers not opened", "indices taken once", "sources not told apart"],
)
def test_mutants_are_caught(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, name, mutant)
    with pytest.raises((AssertionError, pytest.fail.Exception, PrivacyError)):
        law_holds_for_all()


def law_holds_for_all() -> None:
    wrapped, repeated = ConcatDataset([BASES[0], Changed(BASES[0])]), Subset(BASES[0], [0, 1, 1])
    for dataset in (wrapped, repeated, ConcatDataset(BASES)):
        law_repeats_are_told_from_what_records_say(dataset)


X = torch.arange(40.0).view(20, 2)
OBJECTS = [{"x": i} for i in range(4)]
SAME = {
    "twice": ConcatDataset([TensorDataset(X)] * 2),
    "two objects": ConcatDataset([TensorDataset(X, X), TensorDataset(X, X)]),
    "views that overlap": ConcatDataset([TensorDataset(X[:12]), TensorDataset(X[11:])]),
    "strided views": ConcatDataset([TensorDataset(X[::2]), TensorDataset(X[::2])]),
    "a list": OBJECTS * 2,
    "a list of tuples": [(X[0], 1)] * 3,
    "lists": ConcatDataset([OBJECTS, [OBJECTS[2]]]),
    "copies of one": ConcatDataset([Copies(OBJECTS, lambda s: [s]), Changed(Copies(OBJECTS, lambda s: [s]))]),
    "split and whole": ConcatDataset([random_split(BASES[0], [3, 2])[0], BASES[0]]),
}
APART = {
    "halves": ConcatDataset([TensorDataset(X[:10]), TensorDataset(X[10:])]),
    "columns": ConcatDataset([TensorDataset(X[:, :1]), TensorDataset(X[:, 1:])]),
    "two labels": ConcatDataset([TensorDataset(X, torch.zeros(20)), TensorDataset(X, torch.ones(20))]),
    "equal values": ConcatDataset([TensorDataset(X), TensorDataset(X.clone())]),
    "one row expanded": TensorDataset(torch.zeros(1).expand(9)),
    "one label for all": TensorDataset(X, torch.zeros(1).expand(20)),
    "a list of numbers": [1, 1, 2, 2],
    "constants": [(0, 1) for _ in range(5)],
    "split": ConcatDataset(random_split(BASES[0], [3, 2])),
    "nothing": Subset(BASES[0], []),
    "no tensors": TensorDataset(torch.zeros(0, 3)),
}


@pytest.mark.parametrize("name", SAME)
def test_one_record_twice_is_refused(name: str) -> None:
    with pytest.raises(PrivacyError, match=r"GroupRates.*unit="):
        check_repeats(SAME[name])


@pytest.mark.parametrize("name", APART)
def test_different_records_pass(name: str) -> None:
    check_repeats(APART[name])


def test_data_sets_that_know_one_another_are_no_endless_chain() -> None:
    first, second = Changed(BASES[0]), Changed(BASES[0])
    first.wrapped, second.wrapped = second, first
    first.__class__ = second.__class__ = type("Round", (Changed,), {"__len__": lambda self: 4})
    assert len(origins(first).place) == 4


def test_persons_may_have_a_record_twice() -> None:
    """All rows of a person are clipped together, so a repeated one adds nothing to the bound."""
    loader = DataLoader(Subset(BASES[0], [0, 1, 1, 2]), batch_size=2, collate_fn=list)
    with pytest.raises(PrivacyError, match="record 1 of the Subset is in it 2 times"):
        poisson_loader(loader, 4)
    persons = poisson_loader(loader, 4, unit=lambda batch: [index for _, index in batch])
    assert [len(unit) for unit in map(persons.dataset.__getitem__, range(3))] == [1, 2, 1]


def test_a_large_data_set_is_looked_through_in_no_time() -> None:
    """A pass over a million indices, and nothing of the samples."""

    class Closed(Numbers):
        def __getitem__(self, index: int) -> tuple[str, int]:
            raise AssertionError("no sample is read")

    size = 1_000_000
    check_repeats(ConcatDataset([Subset(Closed("c", size), np.arange(0, size, 2)), Closed("d", size)]))  # type: ignore[arg-type]


def test_views_are_one_record_where_their_memory_is() -> None:
    found = origins(ConcatDataset([TensorDataset(X[4:8]), TensorDataset(X[6:])]))
    assert found.place.tolist() == [4, 5, 6, 7, *range(6, 20)]
