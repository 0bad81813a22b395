"""Keyed generators: the whole state is keyed, from the operating system or by every part of the key."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from dplit.noise.keys import KeyedGenerators
from tests.noise.laws import law_normal, law_uncorrelated

KEYS = {  # what tells generators apart, all different from the first
    "first": (KeyedGenerators(7), 0, 0),
    "seed": (KeyedGenerators(8), 0, 0),
    "stream": (KeyedGenerators(7, "validation"), 0, 0),
    "rank": (KeyedGenerators(7, rank=1), 0, 0),
    "another rank": (KeyedGenerators(7, rank=255), 0, 0),
    "a stream that spells a rank": (KeyedGenerators(7, "train\x01"), 0, 0),
    "release": (KeyedGenerators(7), 1, 0),
    "piece": (KeyedGenerators(7), 0, 1),
    "release and piece": (KeyedGenerators(7), 1, 1),
}


def numbers(generators: KeyedGenerators, release: int, piece: int) -> Tensor:
    return torch.empty(100_000).normal_(generator=generators.generator(release, piece=piece))


def law_every_part_of_the_key_tells_apart() -> None:
    drawn = [numbers(*key) for key in KEYS.values()]
    for a, b in combinations(drawn, 2):
        law_uncorrelated(a, b)


def test_every_part_of_the_key_tells_apart() -> None:
    law_every_part_of_the_key_tells_apart()


@pytest.mark.parametrize("forgotten", ["release", "piece", "rank", "stream"])
def test_mutant_that_forgets_a_part_is_caught(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    honest = KeyedGenerators._words
    broken = {
        "release": lambda self, release, piece: honest(self, 0, piece),
        "piece": lambda self, release, piece: honest(self, release, 0),
        "rank": lambda self, release, piece: honest(KeyedGenerators(self.seed, self.stream), release, piece),
        "stream": lambda self, release, piece: honest(KeyedGenerators(self.seed, rank=self.rank), release, piece),
    }
    monkeypatch.setattr(KeyedGenerators, "_words", broken[forgotten])
    with pytest.raises(AssertionError):
        law_every_part_of_the_key_tells_apart()


def test_a_seeded_generator_repeats_itself() -> None:
    for key in KEYS.values():
        assert torch.equal(numbers(*key), numbers(*key))


def test_seeded_states_are_those_of_version_0_1() -> None:
    """A seeded run can be repeated by later versions; rank 0 is keyed as a single process always was."""
    words = np.random.SeedSequence([9, 5, 3, *b"validation"]).generate_state(624, np.uint32)
    state = KeyedGenerators(9, "validation").generator(5, piece=3).get_state()
    assert np.array_equal(state[24 : 24 + 8 * 624].numpy().view(np.uint64), words)


def test_without_a_seed_nothing_repeats() -> None:
    first = numbers(KeyedGenerators(), 0, 0)
    law_normal(first, 1.0)
    law_uncorrelated(first, numbers(KeyedGenerators(), 0, 0))


def test_the_whole_state_is_keyed() -> None:
    """torch's `manual_seed` reads 32 bits of its argument; here every one of the 624 words comes from the key."""
    states = torch.stack([KeyedGenerators().generator(0).get_state()[24 : 24 + 8 * 624] for _ in range(3)])
    words = states.reshape(3, 624, 8)
    assert (words[0, :, :4] != words[1, :, :4]).any(1).float().mean() > 0.99
    assert (words[:, :, 4:] == 0).all()


def test_mutant_manual_seed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyedGenerators, "generator", lambda self, *key, **named: torch.Generator().manual_seed(5))
    with pytest.raises(AssertionError):
        test_the_whole_state_is_keyed()
    with pytest.raises(AssertionError):
        test_without_a_seed_nothing_repeats()
