"""A sampler that gives each of some records once a pass is drawn from those records; any other is refused with what works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
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


def law_only_the_samplers_records_are_drawn(indices: Sequence[int]) -> None:
    own = {index % SIZE for index in indices}
    given = loader(SubsetRandomSampler(indices))
    ours = poisson_loader(given, 8)
    assert (ours.batch_sampler.size, len(ours)) == (len(own), len(given))
    assert ours.batch_sampler.rate == 2 / len(own)
    assert seen(given) <= own


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(-SIZE, SIZE - 1), min_size=2, max_size=12, unique_by=lambda i: i % SIZE))
def test_only_the_samplers_records_are_drawn(indices: list[int]) -> None:
    law_only_the_samplers_records_are_drawn(indices)


def test_mutant_that_draws_from_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.sampling.loader.drawn_records", lambda loader: None)
    with pytest.raises(AssertionError):
        law_only_the_samplers_records_are_drawn(range(10))


@pytest.mark.parametrize("indices", [range(5), torch.arange(5), np.arange(5), [torch.tensor(i) for i in range(5)]])
def test_indices_may_be_anything_that_counts(indices: Any) -> None:
    found = drawn_records(loader(SubsetRandomSampler(indices)))
    assert found is not None
    assert found.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", [RandomSampler, SequentialSampler])
def test_a_sampler_over_the_first_records_draws_from_those(kind: Any) -> None:
    assert seen(loader(kind(range(6)))) <= set(range(6))
    assert drawn_records(loader(kind(DATA))) is None


def test_a_record_that_the_sampler_gives_twice_is_refused_and_the_check_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for indices in ([0, 1, 1, 2], [3, 0, 3 - SIZE]):
        with pytest.raises(PrivacyError, match="is in it 2 times"):
            poisson_loader(loader(SubsetRandomSampler(indices)), 8)
    monkeypatch.setattr("dplit.sampling.loader.check_repeats", lambda dataset: None)
    assert len(poisson_loader(loader(SubsetRandomSampler([0, 1, 1, 2])), 8).dataset) == 4


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
        (Own(), r"Own does not give each record once .*Subset\(data, indices\)"),
        (Odd(range(5)), r"Odd does not give each record once"),
    ],
)
def test_other_samplers_are_refused_with_what_works(sampler: Any, says: str) -> None:
    with pytest.raises(PrivacyError, match=says) as refused:
        drawn_records(loader(sampler))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("indices", "says"), [([0, 40], "index 40 .* 40 records"), ([-41], "index -41"), ([], "no index")]
)
def test_indices_outside_the_data_set_are_refused(indices: list[int], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        drawn_records(loader(SubsetRandomSampler(indices)))


def test_the_remedies_work() -> None:
    assert "shuffle=True" in samplers.REMEDY
    assert drawn_records(DataLoader(DATA, batch_size=4, shuffle=True)) is None
