"""A user's loader becomes one of Poisson draws, with its rate, its length and its collate function, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from dplit.data.units import Copies
from dplit.errors import ConfigurationError, DplitError, PrivacyError
from dplit.sampling.draws import Draw
from dplit.sampling.loader import poisson_loader
from dplit.sampling.poisson import PoissonBatches


class Fetched(Dataset):
    """Fetches lists of records, and cannot fetch none."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> int:
        return i

    def __getitems__(self, indices: list[int]) -> list[int]:
        assert indices
        return list(indices)


def test_draws_are_cut_into_physical_batches() -> None:
    data = TensorDataset(torch.arange(100))
    (draw,) = poisson_loader(DataLoader(data, batch_size=100), 30)
    assert isinstance(draw, Draw)
    assert [part.rows for part in draw.parts] == [30, 30, 30, 10]
    assert torch.cat([part.batch[0] for part in draw.parts]).tolist() == list(range(100))


@pytest.mark.parametrize("data", [TensorDataset(torch.arange(10)), Fetched()], ids=["items", "lists"])
def test_empty_draws_come_through(data: Dataset) -> None:
    loader = poisson_loader(DataLoader(data, batch_size=1, collate_fn=list), 4)
    loader.batch_sampler.draws = 200
    sizes = [draw.size for draw in loader]
    assert 0 in sizes
    assert max(sizes) > 1


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("size", "batch"), [(49, 1), (100, 30), (107, 107), (1000, 3)])
def test_the_pass_keeps_its_length_and_the_rate_is_exact(size: int, batch: int, drop_last: bool) -> None:
    loader = DataLoader(TensorDataset(torch.arange(size)), batch_size=batch, drop_last=drop_last)
    ours = poisson_loader(loader, 8)
    assert len(ours) == len(loader)
    assert ours.batch_sampler.rate == batch / size


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(3)


DATA = TensorDataset(torch.arange(20))


@pytest.mark.parametrize(
    ("loader", "error", "says"),
    [
        (DataLoader(DATA, sampler=WeightedRandomSampler(torch.ones(20), 20), batch_size=4), PrivacyError, "Weighted"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=5), batch_size=4), PrivacyError, "RandomSampler"),
        (DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True), batch_size=4), PrivacyError, "RandomSampler"),
        (DataLoader(DATA, batch_sampler=[[0, 1]]), PrivacyError, "batch sampler list"),
        (DataLoader(DATA, batch_size=None), PrivacyError, "batch_size"),
        (DataLoader(Stream(), batch_size=2), ConfigurationError, "Stream"),
        (DataLoader(DATA, batch_size=21), ConfigurationError, "batch_size=21 is larger than the data set's 20"),
        ([1, 2, 3], ConfigurationError, "list"),
    ],
)
def test_refused(loader: object, error: type[DplitError], says: str) -> None:
    with pytest.raises(error, match=says):
        poisson_loader(loader, 8)


@pytest.mark.parametrize("loader", [DataLoader(DATA, batch_size=4, shuffle=True), DataLoader(DATA, batch_size=4)])
def test_uniform_samplers_are_replaced(loader: DataLoader) -> None:
    assert isinstance(loader.sampler, RandomSampler | SequentialSampler)
    assert isinstance(poisson_loader(loader, 8).batch_sampler, PoissonBatches)


# -- physical batches of like length ------------------------------------------------------------------------------------


class Sized(Dataset):
    """Records that are their own index and say how long they are."""

    def __init__(self, lengths: object) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        return range(20)[index]


LENGTHS = np.random.default_rng(3).integers(1, 6, 20)


def cuts(dataset: Dataset) -> list[list[int]]:
    """The physical batches of a draw of everything."""
    loader = DataLoader(dataset, batch_size=len(dataset), collate_fn=list, shuffle=True)
    (draw,) = poisson_loader(loader, 4)
    return [part.batch for part in draw.parts]


def law_cut_by_length(batches: list[list[int]]) -> None:
    indices = [index for batch in batches for index in batch]
    assert sorted(indices) == sorted(set(indices))
    assert [LENGTHS[i] for i in indices] == sorted(LENGTHS[indices], reverse=True)


@pytest.mark.parametrize(
    "dataset",
    [Sized(LENGTHS), Sized(torch.tensor(LENGTHS)), Sized(LENGTHS.tolist()), Subset(Sized(LENGTHS), [1, 5, 9, 2, 19])],
    ids=["array", "tensor", "list", "subset"],
)
def test_a_draw_is_cut_by_length(dataset: Dataset) -> None:
    law_cut_by_length(cuts(dataset))


@pytest.mark.parametrize(
    "lengths", [None, "20 words", [1, 2], [[1] * 20], ["a"] * 20, [float("nan")] * 20, len], ids=str
)
def test_what_says_no_length_is_taken_in_order_and_would_be_caught(lengths: object) -> None:
    batches = cuts(Sized(lengths))
    assert [i for batch in batches for i in batch] == list(range(20))
    with pytest.raises(AssertionError):
        law_cut_by_length(batches)


def test_a_person_is_as_long_as_the_longest_record() -> None:
    loader = DataLoader(Sized(LENGTHS), batch_size=7, collate_fn=list, shuffle=True)
    (draw,) = poisson_loader(loader, 4, unit=lambda batch: [index % 7 for index in batch])
    longest = [max(LENGTHS[i] for i in range(20) if i % 7 == who) for part in draw.parts for who in part.who]
    assert len(longest) == 7
    assert longest == sorted(longest, reverse=True)


def test_a_record_with_copies_is_as_long_as_the_record() -> None:
    law_cut_by_length([batch[::2] for batch in cuts(Copies(Sized(LENGTHS), lambda index: [index]))])
