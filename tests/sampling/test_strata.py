"""Strata: the group of every unit, read once, and the rate of its group, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dplit.data.units import Copies
from dplit.errors import ConfigurationError
from dplit.sampling import strata as strata_module
from dplit.sampling.loader import poisson_loader
from dplit.sampling.strata import batches_of_all_records, groups_of_units, strata

RECORDS = 23
GROUP = [i * i % 3 for i in range(RECORDS)]
USER = [i % 7 for i in range(RECORDS)]


class Records(Dataset):
    """Each record knows its number, its group and its user; a user's group is that of the user's number."""

    def __init__(self, by_user: bool = False) -> None:
        self.by_user = by_user

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"number": index, "group": USER[index] % 3 if self.by_user else GROUP[index], "user": USER[index]}


def loader_of(dataset: Dataset, max_rows: int = 4, by_user: bool = False) -> DataLoader:
    unit = (lambda batch: batch["user"].tolist()) if by_user else None
    return poisson_loader(DataLoader(dataset, batch_size=5), max_rows, unit=unit)


def group(batch: dict[str, Tensor]) -> Tensor:
    return batch["group"]


def law_strata_are_the_groups() -> None:
    parts = strata(loader_of(Records()), group, [0.1, 0.2, 0.3])
    assert [part.tolist() for part, _ in parts] == [[i for i in range(RECORDS) if GROUP[i] == k] for k in range(3)]
    assert [rate for _, rate in parts] == [0.1, 0.2, 0.3]


def test_strata_are_the_groups() -> None:
    law_strata_are_the_groups()


def test_mutant_the_last_records_unread_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = strata_module.batches_of_all_records
    monkeypatch.setattr(strata_module, "batches_of_all_records", lambda loader: list(honest(loader))[:-1])
    with pytest.raises(AssertionError):
        law_strata_are_the_groups()


@pytest.mark.parametrize("max_rows", [1, 4, 100])
@pytest.mark.parametrize("by_user", [False, True])
def test_all_records_are_read_once(max_rows: int, by_user: bool) -> None:
    batches = [part.batch for part in batches_of_all_records(loader_of(Records(), max_rows, by_user))]
    assert torch.cat([batch["number"] for batch in batches]).tolist() == list(range(RECORDS))
    assert max(len(batch["number"]) for batch in batches) <= max_rows


def test_copies_count_as_their_record() -> None:
    copies = Copies(Records(), lambda record: [record | {"group": 2}])
    assert groups_of_units(loader_of(copies), group).tolist() == GROUP


def test_persons_are_in_their_records_group() -> None:
    assert groups_of_units(loader_of(Records(by_user=True), by_user=True), group).tolist() == [k % 3 for k in range(7)]
    with pytest.raises(ConfigurationError, match="different groups"):
        groups_of_units(loader_of(Records(), by_user=True), group)


def test_a_group_without_members_is_an_empty_stratum() -> None:
    parts = strata(loader_of(Records()), group, [0.1, 0.2, 0.3, 0.4])
    assert parts[3][0].tolist() == []
    assert np.array_equal(np.sort(np.concatenate([part for part, _ in parts])), np.arange(RECORDS))
