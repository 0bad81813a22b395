"""What a noise source is: whatever a release adds to a value that may leave the private data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from dplit import validation


class ReleaseNoise(ABC):
    """The noise of one release: every number that it adds is independent of all others."""

    @abstractmethod
    def add(self, sums: Sequence[Tensor], std: float, divisor: float) -> None:
        """Add independent N(0, std²) to every number of the tensors and divide them, in place.

        Args:
            sums: contiguous tensors of any shapes, float32 or float64, without gradient.
            std: standard deviation, in the unit of the sums.
            divisor: what the noisy sums are divided by, above 0.
        """

    @abstractmethod
    def like(self, tensor: Tensor, std: float) -> Tensor:
        """Return independent N(0, std²) in the shape and on the device of `tensor`, float32, or float64 for a float64 tensor."""


class NoiseSource(ABC):
    """Makes the noise of releases, N(0, std²) in every number: what the ledger charges is the Gaussian mechanism.

    A source is one file in `dplit/noise`: a subclass with a `name`, a `description` and `release`; `dplit.noise.find`
    and the contract tests find it by itself.

    Args:
        seed: None, or a number that makes the noise a public function of (seed, stream, rank, release): for tests only,
            since whoever knows it can subtract the noise.
        stream: what the noise is for; tells seeded sources apart.
        rank: which of several processes draws; tells seeded sources apart.
    """

    name: ClassVar[str]

    def __init__(self, seed: int | None = None, stream: str = "train", rank: int = 0) -> None:
        self.seed = seed
        self.stream = stream
        self.rank = validation.count("rank", rank, least=0)

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for privacy statements: the law, where the randomness is from, the number format."""

    @abstractmethod
    def release(self, number: int) -> ReleaseNoise:
        """Return the noise of one release, to be used for that release alone.

        Args:
            number: how many releases came before; tells the releases of a seeded source apart, and only those.
        """
