"""Promise 7: Poisson is Poisson."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from torch.utils.data import BatchSampler, RandomSampler

from dplit.errors import ConfigurationError
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
        scores = (counts[part] - 2000 * rate) / np.sqrt(2000 * rate * (1 - rate))
        assert np.abs(scores).max() < 6
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


# -- longest first ------------------------------------------------------------------------------------------------------


def test_lengths_change_the_order_and_nothing_else() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, SIZE)
    law_poisson(PoissonBatches(SIZE, RATE, DRAWS, lengths=lengths))
    for draw in PoissonBatches(SIZE, RATE, 5, lengths=lengths):
        assert lengths[draw].tolist() == sorted(lengths[draw], reverse=True)


def test_mutant_the_longest_are_left_out_is_caught() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, SIZE)
    with pytest.raises(AssertionError):
        law_poisson([draw[1:] for draw in PoissonBatches(SIZE, RATE, DRAWS, lengths=lengths)])


@pytest.mark.parametrize("rate", [0, -0.1, 1.5, float("nan"), None, "0.1"])
def test_what_is_no_rate_is_refused(rate) -> None:
    with pytest.raises(ConfigurationError, match=r"^rate=[^\n]*$"):
        PoissonBatches(10, rate, 1)


def test_a_rate_of_one_draws_everything_and_a_seed_repeats() -> None:
    assert list(PoissonBatches(5, 1, 2)) == [[0, 1, 2, 3, 4]] * 2
    assert list(PoissonBatches(100, 0.3, 4, seed=3)) == list(PoissonBatches(100, 0.3, 4, seed=3))
    assert len(PoissonBatches(100, 0.3, 4)) == 4
