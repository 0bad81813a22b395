"""Where Gaussian noise comes from: the operating system keys a fresh generator for every release."""

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
    """Keys one generator per release, so that no state outlives a release, a fork, a copy or a resume.

    On the CPU the whole state of torch's Mersenne Twister is filled with 19,968 bits from the operating system
    (`manual_seed` would use 32 of its bits only); on other devices the counter-based generator gets 64 such bits.
    Normals are drawn in float32, or float64 for float64 parameters: float32 normals end near 5.8 standard deviations,
    and the low bits of floating-point noise are not hardened against a reader of exact bit patterns.

    Args:
        seed: None, or a number that makes the noise a public function of (seed, stream, release): for tests only.
        stream: what the noise is for; tells seeded streams apart.
    """

    seed: int | None = None
    stream: str = "train"

    def generator(self, release: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Return the generator of one release.

        Args:
            release: how many releases came before; tells seeded streams apart, and only those.
            device: where the noise is drawn.
        """
        words = self._words(release)
        generator = torch.Generator(device)
        if generator.device.type != "cpu":
            return generator.manual_seed(int(words[:2].view(np.uint64)[0] >> np.uint64(1)))
        state = _template().clone()
        state[24 : 24 + 8 * _WORDS] = torch.from_numpy(words.astype(np.uint64).view(np.uint8))
        return generator.set_state(state)

    def _words(self, release: int) -> NDArray[np.uint32]:
        if self.seed is None:
            return np.frombuffer(os.urandom(4 * _WORDS), dtype=np.uint32)
        sequence = np.random.SeedSequence([self.seed, release, *self.stream.encode()])
        return sequence.generate_state(_WORDS, np.uint32).astype(np.uint32)


@cache
def _template() -> Tensor:
    return torch.Generator().manual_seed(0).get_state()


def gaussian(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Return independent N(0, std²) in the shape of `like`, in float32 or, for a float64 tensor, float64."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.empty(like.shape, dtype=dtype, device=like.device).normal_(0.0, std, generator=generator)
