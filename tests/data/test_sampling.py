"""Promise 7: Poisson is Poisson."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from dplit.data.units import Copies
from dplit.errors import ConfigurationError, DplitError, PrivacyError
from dplit.sampling.draws import Draw
from dplit.sampling.loader import poisson_loader
from dplit.sampling.poisson import PoissonBatches

ALARM = 1e-7
SIZE, DRAWS, RATE = 2000, 2000, 0.05


def law_poisson(sampler: object, size: int = SIZE, rate: float = RATE) -> None:
    """Sizes, inclusion counts and pair counts of independent inclusion with one rate."""
    included = np.zeros((DRAWS, size), dtype=bool)
    for row, indices in zip(included, sampler, strict=True):
        assert len(set(indices)) == len(indices)
        row[indices] = True
    limit = stats.norm.isf(ALARM / 2)
    sizes, spread = included.sum(1), size * rate * (1 - rate)
    assert abs(sizes.mean() - size * rate) / np.sqrt(spread / DRAWS) < limit
    assert stats.chi2.sf((sizes.var() * DRAWS) / spread, DRAWS - 1) > ALARM / 2
    assert stats.chi2.cdf((sizes.var() * DRAWS) / spread, DRAWS - 1) > ALARM / 2
    counts = included.sum(0)
    chi2 = ((counts - DRAWS * rate) ** 2 / (DRAWS * rate * (1 - rate))).sum()
    assert ALARM / 2 < stats.chi2.sf(chi2, size) < 1 - ALARM / 2
    pairs = (included[:, ::2] & included[:, 1::2]).sum()
    expected = DRAWS * size / 2 * rate**2
    assert abs(pairs - expected) / np.sqrt(expected) < limit


def test_law() -> None:
    law_poisson(PoissonBatches(SIZE, RATE, DRAWS))


def test_two_passes_differ() -> None:
    sampler = PoissonBatches(1000, 0.5, 1)
    assert list(sampler) != list(sampler)


def test_mutant_shuffled_batches_are_caught() -> None:
    batches = BatchSampler(RandomSampler(range(SIZE)), int(RATE * SIZE), drop_last=False)
    many = [batch for _ in range(DRAWS // len(batches)) for batch in batches]
    with pytest.raises(AssertionError):
        law_poisson(many)


def test_mutant_fixed_sizes_are_caught() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(AssertionError):
        law_poisson([generator.choice(SIZE, int(SIZE * RATE), replace=False).tolist() for _ in range(DRAWS)])


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
        (DataLoader(DATA, sampler=SubsetRandomSampler(range(5)), batch_size=4), PrivacyError, "Subset"),
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


# -- rates by group -----------------------------------------------------------------------------------------------------


def law_each_stratum_at_its_rate(sampler_of) -> None:
    """Inclusion counts of every record, and the size of every stratum's part, over 2000 draws."""
    strata = [(np.arange(0, 100, 2), 0.3), (np.arange(1, 100, 2), 0.05)]
    counts, sizes = np.zeros(100), []
    for draw in sampler_of(100, 0.1, 2000, seed=7, strata=strata):
        counts[draw] += 1
        sizes.append([np.isin(draw, part).sum() for part, _ in strata])
        assert draw == sorted(set(draw))
    for (part, rate), size in zip(strata, np.array(sizes).T, strict=True):
        assert stats.binomtest(int(counts[part].sum()), 2000 * len(part), rate).pvalue > 1e-6
        each = (counts[part] - 2000 * rate) / np.sqrt(2000 * rate * (1 - rate))
        assert np.abs(each).max() < 6
        assert abs(size.var() / (len(part) * rate * (1 - rate)) - 1) < 6 * np.sqrt(2 / 2000)


def test_groups_are_drawn_at_their_rates() -> None:
    law_each_stratum_at_its_rate(PoissonBatches)


def test_mutant_one_rate_for_all_is_caught() -> None:
    def one_rate(size, rate, draws, seed, strata):
        return PoissonBatches(size, rate, draws, seed)

    with pytest.raises(AssertionError):
        law_each_stratum_at_its_rate(one_rate)


@pytest.mark.parametrize(
    "strata",
    [
        [(np.arange(5), 0.1)],
        [(np.arange(10), 0.1), (np.arange(5), 0.1)],
        [(np.arange(10), 1.5)],
        [(np.arange(10), 0.0)],
    ],
)
def test_strata_that_are_no_partition_or_no_rates_are_refused(strata) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PoissonBatches(10, 0.1, 1, strata=strata)
    assert "\n" not in str(caught.value)


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
    found = [index for batch in batches for index in batch]
    assert sorted(found) == sorted(set(found))
    assert [LENGTHS[i] for i in found] == sorted(LENGTHS[found], reverse=True)


def test_lengths_change_the_order_and_nothing_else() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, SIZE)
    law_poisson(PoissonBatches(SIZE, RATE, DRAWS, lengths=lengths))
    assert sorted(i for batch in cuts(Sized(LENGTHS)) for i in batch) == list(range(20))


def test_mutant_the_longest_are_left_out_is_caught() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, SIZE)
    with pytest.raises(AssertionError):
        law_poisson([draw[1:] for draw in PoissonBatches(SIZE, RATE, DRAWS, lengths=lengths)])


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
