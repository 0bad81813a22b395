"""Keyed generators: the operating system keys a new generator for every piece of a release."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WORDS = 624
"""Words of 32 bits in the Mersenne Twister's state."""
_AFTER_BYTES = 256
"""Ranks are keyed by numbers from here on, which no byte of a stream's name can be."""


@dataclass(frozen=True)
class KeyedGenerators:
    """Keys generators that serve one piece of one release, so that no state outlives a release, a fork, a copy or a resume.

    On the CPU the whole state of torch's Mersenne Twister is filled with 19,968 bits from the operating system
    (`manual_seed` would use 32 of its bits only); on other devices the counter-based generator gets 63 such bits.

    Args:
        seed: None for the operating system's randomness, or a number that makes every generator a public function of
            (seed, stream, rank, release, piece): for tests only.
        stream: what the generators are for; tells seeded streams apart.
        rank: which process draws; tells seeded streams apart. Rank 0 is keyed as a single process is.
    """

    seed: int | None = None
    stream: str = "train"
    rank: int = 0

    def generator(self, release: int, device: torch.device | str = "cpu", piece: int = 0) -> torch.Generator:
        """Return a new generator.

        Args:
            release: how many releases came before; tells seeded streams apart, and only those.
            device: where the noise is drawn.
            piece: which of the release's generators; tells seeded streams apart, and only those.
        """
        words = self._words(release, piece)
        generator = torch.Generator(device)
        if generator.device.type != "cpu":
            return generator.manual_seed(int(words[:2].view(np.uint64)[0] >> np.uint64(1)))
        state = _template().clone()
        state[24 : 24 + 8 * _WORDS] = torch.from_numpy(words.astype(np.uint64).view(np.uint8))
        return generator.set_state(state)

    def _words(self, release: int, piece: int) -> NDArray[np.uint32]:
        """Return the 624 words that key one generator."""
        if self.seed is None:
            return np.frombuffer(os.urandom(4 * _WORDS), dtype=np.uint32)
        rank = [_AFTER_BYTES + self.rank] if self.rank else []
        sequence = np.random.SeedSequence([self.seed, release, piece, *self.stream.encode(), *rank])
        return sequence.generate_state(_WORDS, np.uint32).astype(np.uint32)


@cache
def _template() -> Tensor:
    """Return a state of the CPU generator whose words are to be overwritten."""
    return torch.Generator().manual_seed(0).get_state()
