"""A sampler that gives each of some records once a pass is drawn from those records; any other is refused with what works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from dplit.errors import ConfigurationError, PrivacyError
from dplit.sampling import samplers
from dplit.sampling.loader import poisson_loader
from dplit.sampling.samplers import drawn_records

SIZE = 40
DATA = TensorDataset(torch.arange(SIZE))


def loader(sampler: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(DATA, sampler=sampler, batch_size=2, **options)


def seen(given: DataLoader[Any], draws: int = 60) -> set[int]:
    """The records that many draws hold."""
    ours = poisson_loader(given, 8)
    ours.batch_sampler.draws = draws
    return {int(value) for draw in ours for part in draw.parts for value in part.batch[0]}


def law_only_the_samplers_records_are_drawn(first: int) -> None:
    given = loader(RandomSampler(range(first)))
    ours = poisson_loader(given, 8)
    assert (ours.batch_sampler.size, len(ours)) == (first, len(given))
    assert ours.batch_sampler.rate == 2 / first
    assert seen(given) <= set(range(first))


@settings(deadline=None, derandomize=True)
@given(st.integers(2, 12))
def test_only_the_samplers_records_are_drawn(first: int) -> None:
    law_only_the_samplers_records_are_drawn(first)


def test_mutant_that_draws_from_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.sampling.loader.drawn_records", lambda loader: None)
    with pytest.raises(AssertionError):
        law_only_the_samplers_records_are_drawn(10)


@pytest.mark.parametrize("kind", [RandomSampler, SequentialSampler])
def test_a_sampler_over_the_first_records_draws_from_those(kind: Any) -> None:
    assert seen(loader(kind(range(6)))) <= set(range(6))
    assert drawn_records(loader(kind(DATA))) is None


class Own(Sampler[int]):
    def __iter__(self) -> Any:
        yield from [0] * 9

    def __len__(self) -> int:
        return 9


class Odd(SubsetRandomSampler):
    def __iter__(self) -> Any:
        yield from (0 for _ in self.indices)


@pytest.mark.parametrize(
    ("sampler", "says"),
    [
        (WeightedRandomSampler(torch.ones(SIZE), SIZE), "WeightedRandomSampler .*GroupRates"),
        (RandomSampler(DATA, replacement=True), "without replacement"),
        (RandomSampler(DATA, num_samples=5), "limit_train_batches"),
        (DistributedSampler(DATA, num_replicas=2, rank=0), r"DistributedSampler .*Subset\(data, indices\)"),
        (Own(), r"Own does not give each record .*Subset\(data, indices\)"),
        (SubsetRandomSampler(range(5)), r"SubsetRandomSampler .*DataLoader\(Subset\(data, indices\)"),
        (Odd(range(5)), r"Odd does not give each record of the data set once"),
    ],
)
def test_other_samplers_are_refused_with_what_works(sampler: Any, says: str) -> None:
    with pytest.raises(PrivacyError, match=says) as refused:
        drawn_records(loader(sampler))
    assert "\n" not in str(refused.value)


def test_more_records_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="41 records of a data set of 40"):
        drawn_records(loader(SequentialSampler(range(41))))


def test_the_remedies_work() -> None:
    assert "shuffle=True" in samplers.REMEDY
    assert drawn_records(DataLoader(DATA, batch_size=4, shuffle=True)) is None
