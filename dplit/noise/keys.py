"""Keys: every release draws from generators that the operating system keys anew."""

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


@dataclass(frozen=True)
class Noise:
    """Keys generators that serve one release each, so that no state outlives a release, a fork, a copy or a resume.

    On the CPU the whole state of torch's Mersenne Twister is filled with 19,968 bits from the operating system
    (`manual_seed` would use 32 of its bits only), anew for every chunk of numbers that one thread draws; on other
    devices the counter-based generator gets 64 such bits. Normals are drawn in float32, or float64 for float64
    parameters: float32 normals end near 5.8 standard deviations, and the low bits of floating-point noise are not
    hardened against a reader of exact bit patterns.

    Args:
        seed: None, or a number that makes the noise a public function of (seed, stream, release, key), whatever the
            number of threads: for tests only.
        stream: what the noise is for; tells seeded streams apart.
    """

    seed: int | None = None
    stream: str = "train"

    def generator(self, release: int, device: torch.device | str = "cpu", key: int = 0) -> torch.Generator:
        """Return one generator of one release.

        Args:
            release: how many releases came before; tells seeded streams apart, and only those.
            device: where the noise is drawn.
            key: which of the release's generators; tells seeded streams apart, and only those.
        """
        words = self._words(release, key)
        generator = torch.Generator(device)
        if generator.device.type != "cpu":
            return generator.manual_seed(int(words[:2].view(np.uint64)[0] >> np.uint64(1)))
        state = _template().clone()
        state[24 : 24 + 8 * _WORDS] = torch.from_numpy(words.astype(np.uint64).view(np.uint8))
        return generator.set_state(state)

    def _words(self, release: int, key: int) -> NDArray[np.uint32]:
        if self.seed is None:
            return np.frombuffer(os.urandom(4 * _WORDS), dtype=np.uint32)
        sequence = np.random.SeedSequence([self.seed, release, key, *self.stream.encode()])
        return sequence.generate_state(_WORDS, np.uint32).astype(np.uint32)


@cache
def _template() -> Tensor:
    return torch.Generator().manual_seed(0).get_state()
