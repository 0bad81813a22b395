"""A composition in its normal form: what is equal is merged, what reveals nothing is left out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dplit.errors import ConfigurationError
from dplit.privacy import Gaussian, Sampled
from dplit.privacy.accountants.base import listed, parts

NOISES = st.sampled_from([0.5, 1.0, 3.0, math.inf])
DRAWS = st.builds(
    lambda rate, noises: Sampled(rate, map(Gaussian, noises)),
    st.sampled_from([0.1, 0.2, 1.0]),
    st.lists(NOISES, min_size=1, max_size=3),
)
EVENTS = st.one_of(NOISES.map(Gaussian), DRAWS)
PAIRS = st.lists(st.tuples(EVENTS, st.integers(0, 5)), max_size=8)


def precisions(pairs):
    """Σ times/σ² by rate: what a composition keeps, however it is grouped."""
    sums = {}
    for event, times in pairs:
        rate, noise = event.dominating()
        sums[rate] = sums.get(rate, 0.0) + times / noise**2
    return {rate: total for rate, total in sums.items() if total}


@given(PAIRS)
def test_nothing_is_lost_or_added(pairs):
    normal = parts(pairs)
    kept = {}
    for part in normal:
        kept[part.rate] = kept.get(part.rate, 0.0) + part.times / part.noise_multiplier**2
    assert kept == pytest.approx(precisions(pairs))
    assert list(normal) == sorted(normal)
    assert len({(part.rate, part.noise_multiplier) for part in normal}) == len(normal)
    assert sum(part.rate == 1 for part in normal) <= 1


@given(PAIRS, st.randoms())
def test_order_and_kind_of_collection_do_not_matter(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    normal, other = parts(pairs), parts(iter(shuffled))
    assert [part.times for part in normal] == [part.times for part in other]
    assert [part[:2] for part in normal] == [pytest.approx(part[:2]) for part in other]


def test_a_mapping_or_pairs():
    assert listed({Gaussian(1.0): 2}) == listed(iter([(Gaussian(1.0), 2)])) == ((Gaussian(1.0), 2),)


@pytest.mark.parametrize("pairs", [[(1.0, 2)], [(Gaussian(1.0), -1)], [(Gaussian(1.0), 1.5)], [(None, 1)]])
def test_what_is_no_composition_is_refused(pairs):
    with pytest.raises(ConfigurationError, match=r"^[^\n]+$"):
        parts(pairs)
