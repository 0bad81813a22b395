"""Units: which records belong together, what each is called, which group it is in, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from dplit.data.units import Copies
from dplit.errors import ConfigurationError
from dplit.protocols import UnitSamples
from dplit.sampling.units import (
    People,
    first_rows,
    group_of_units,
    members,
    one_group_per_unit,
    owners,
    single_records,
    unit_ids,
    unit_name,
)

NAMES = st.lists(st.sampled_from(["ann", "bob", "1", 1, 2, 2**60, 2**60 + 1]), min_size=1, max_size=30)


class Squares(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index**2


@given(NAMES)
def test_members_are_the_records_of_each_name(ids: list) -> None:
    expected = [
        [i for i, name in enumerate(ids) if name == unit and type(name) is type(unit)] for unit in dict.fromkeys(ids)
    ]
    assert [part.tolist() for part in members(ids)] == expected


def test_people_hold_all_their_records_and_nobody_elses() -> None:
    people = People(Squares(), [np.array([1, 3]), np.array([2]), np.array([0, 4, 5])], ["ann", "bob", "cy"])
    assert len(people) == 3
    units = people.__getitems__([2, 0])
    assert [(list(unit), unit.who) for unit in units] == [([0, 16, 25], "cy"), ([1, 9], "ann")]
    assert list(people[1]) == [4]
    assert People(Squares(), [np.array([1])])[0].who is None


def test_people_hold_the_copies_of_their_records_too() -> None:
    people = People(Copies(Squares(), lambda square: [-square]), [np.array([1, 3])])
    assert list(people[0]) == [1, -1, 9, -9]


def test_single_records_are_below_all_wrappers() -> None:
    copies = Copies(Squares(), lambda square: [-square])
    for dataset in (Squares(), copies, People(copies, members([0, 0, 1, 1, 1, 2, 2, 2, 2, 2]))):
        records = single_records(dataset)
        assert len(records) == 10
        assert [records[i] for i in range(10)] == [i**2 for i in range(10)]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=10))
def test_owners_first_rows_and_groups_agree(sizes: list[int]) -> None:
    owner = owners([UnitSamples([0] * size) for size in sizes])
    assert owner is not None
    assert owner.tolist() == [unit for unit, size in enumerate(sizes) for _ in range(size)]
    assert first_rows(owner).tolist() == [sum(sizes[:unit]) for unit in range(len(sizes))]
    ids = torch.arange(len(owner)) % 3
    assert group_of_units(ids, owner).tolist() == [sum(sizes[:unit]) % 3 for unit in range(len(sizes))]


def test_samples_that_are_no_units_have_no_owner() -> None:
    assert owners([1, 2, 3]) is None
    assert owners([]) is None
    assert group_of_units(torch.tensor([2, 0]), None).tolist() == [2, 0]
    mixed = owners([1, UnitSamples([2, 3])])
    assert mixed is not None
    assert mixed.tolist() == [0, 1, 1]


def test_a_unit_without_records_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^a unit without records[^\n]*$"):
        owners([UnitSamples([1]), UnitSamples()])


def test_a_unit_has_one_group_or_is_refused() -> None:
    ids = np.array([0, 1, 0, 1, 1])
    assert one_group_per_unit(ids, [np.array([0, 2]), np.array([3, 1, 4])]).tolist() == [0, 1]
    with pytest.raises(ConfigurationError, match=r"^the records of one unit are in different groups[^\n]*$"):
        one_group_per_unit(ids, [np.array([0, 2]), np.array([3, 2])])


def test_ids_are_integers_or_names() -> None:
    assert unit_ids({"user": torch.tensor([3, 1])}, "user") == [3, 1]
    assert unit_ids(([0], ["a", "b"]), 1) == ["a", "b"]
    assert unit_ids({"user": [1, 2]}, lambda batch: [f"u{i}" for i in batch["user"]]) == ["u1", "u2"]


@pytest.mark.parametrize("batch", [{}, {"user": torch.rand(3)}, {"user": torch.ones(2, 2).long()}, {"user": [1.5]}, 3])
def test_what_gives_no_ids_is_refused(batch: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
        unit_ids(batch, "user")


def test_a_key_is_called_by_its_name() -> None:
    assert [unit_name(key) for key in ("user", 2, None, unit_ids)] == ["user", "2", None, "unit_ids"]
