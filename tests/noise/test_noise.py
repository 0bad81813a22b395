"""Promises 3 to 5 for every noise source that is found: the stated law, on every number, and nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor

from dplit import noise
from dplit.errors import ConfigurationError
from dplit.noise import GaussianNoise, NoiseSource
from dplit.noise.gaussian import GaussianReleaseNoise
from tests.noise.laws import DRAWS, STD, law_normal, law_uncorrelated

EVERY = pytest.mark.parametrize("source", noise.available(), ids=lambda source: source.name)
Source = type[NoiseSource]
SHAPES: list[tuple[int, ...]] = [(), (0,), (7,), (3, 5000), (1, 1), (9000, 2), (0, 4), (511,)]
LONG = 200_000


def noised(source: NoiseSource, sums: Sequence[Tensor], release: int = 0, divisor: float = 4.0) -> list[Tensor]:
    sums = [tensor.clone() for tensor in sums]
    source.release(release).add(sums, STD, divisor)
    return sums


def long(source: NoiseSource, release: int) -> Tensor:
    return source.release(release).like(torch.zeros(LONG), STD)


def law_of_what_is_added(source: Source, dtype: torch.dtype) -> None:
    """Sums come back as (sum + N(0, std²)) / divisor, in their own type."""
    sums = [torch.randn(shape, dtype=dtype) for shape in [*SHAPES, (DRAWS,)]]
    results = noised(source(), sums)
    assert [result.dtype for result in results] == [dtype] * len(sums)
    law_normal(torch.cat([(4.0 * result - value).flatten() for result, value in zip(results, sums, strict=True)]))


def law_of_what_is_returned(source: Source, dtype: torch.dtype) -> None:
    values = source().release(0).like(torch.empty(DRAWS // 10, 10, dtype=dtype), STD)
    assert values.shape == (DRAWS // 10, 10)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    law_normal(values.flatten())


def law_every_number_of_every_tensor_gets_noise_once(source: Source) -> None:
    """A number left out or served twice would show as a variance of 0 or 2."""
    shapes = [(31,), (5, 7), (), (2, 3, 4)]
    rows = [
        torch.cat([part.flatten() for part in noised(source(), [torch.zeros(shape) for shape in shapes])])
        for _ in range(400)
    ]
    variance = (torch.stack(rows) * 4.0 / STD).square().mean(0)
    assert variance.min() > 0.5
    assert variance.max() < 1.6


def law_nothing_is_shared(source: Source) -> None:
    """Tensors of one release, releases, streams, ranks and sources are independent, seeded or not."""
    for seed in (None, 7):
        first = source(seed).release(0)
        vectors = [first.like(torch.zeros(LONG), STD), first.like(torch.zeros(LONG), STD)]
        added = [torch.zeros(LONG), torch.zeros(LONG)]
        first.add(added, STD, 1.0)
        others = [
            long(source(seed), 1),
            long(source(seed, "validation"), 0),
            long(source(seed, rank=1), 0),
            long(source(seed, rank=2), 0),
            long(source(seed, "validation", rank=1), 0),
        ]
        for a, b in combinations([*vectors, *added, *others], 2):
            law_uncorrelated(a, b)
    law_uncorrelated(long(source(), 0), long(source(), 0))


def law_a_users_seed_is_not_ours(source: Source) -> None:
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), long(source(), 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(0)
    law_uncorrelated(first, long(source(), 0))


def law_a_seed_repeats_a_release(source: Source) -> None:
    sums = [torch.ones(50_000), torch.ones(7, dtype=torch.float64)]
    for options in ({"seed": 7}, {"seed": 7, "rank": 3}, {"seed": 0, "stream": "validation"}):
        assert torch.equal(long(source(**options), 3), long(source(**options), 3))
        pairs = zip(noised(source(**options), sums, 2), noised(source(**options), sums, 2), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_added_has_the_law(source: Source, dtype: torch.dtype) -> None:
    law_of_what_is_added(source, dtype)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_what_is_returned_has_the_law(source: Source, dtype: torch.dtype) -> None:
    law_of_what_is_returned(source, dtype)


@EVERY
def test_every_number_of_every_tensor_gets_noise_once(source: Source) -> None:
    law_every_number_of_every_tensor_gets_noise_once(source)


@EVERY
def test_nothing_is_shared(source: Source) -> None:
    law_nothing_is_shared(source)


@EVERY
def test_a_users_seed_is_not_ours(source: Source) -> None:
    law_a_users_seed_is_not_ours(source)


@EVERY
def test_a_seed_repeats_a_release(source: Source) -> None:
    law_a_seed_repeats_a_release(source)


@EVERY
def test_its_description_is_one_line_and_names_a_seed(source: Source) -> None:
    assert source().description
    assert "\n" not in source().description
    assert "12345" in source(12345).description
    assert noise.find(source.name) is noise.find(source) is source


def test_known_by_name() -> None:
    assert noise.find() is noise.find("gaussian") is GaussianNoise
    with pytest.raises(ConfigurationError, match=r"^noise source='gausian' is not known; did you mean 'gaussian'\?$"):
        noise.find("gausian")
    with pytest.raises(ConfigurationError, match=r"^noise source 3 is none; give one of gaussian"):
        noise.find(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"^rank=-1 "):
        GaussianNoise(rank=-1)


# -- broken sources, which the laws must see ---------------------------------------------------------------------------


def broken(release: type[GaussianReleaseNoise]) -> Source:
    class Broken(GaussianNoise):
        def release(self, number: int) -> GaussianReleaseNoise:
            honest = super().release(number)
            return release(honest._generators, number)

    return Broken


@broken
class TooSmall(GaussianReleaseNoise):
    def add(self, sums, std, divisor):
        super().add(sums, 0.99 * std, divisor)

    def like(self, tensor, std):
        return super().like(tensor, 0.99 * std)


@broken
class Uniform(GaussianReleaseNoise):
    """The right variance, another law."""

    def like(self, tensor, std):
        return (torch.rand(tensor.shape) - 0.5) * std * 12**0.5

    def add(self, sums, std, divisor):
        for tensor in sums:
            tensor.add_((torch.rand(tensor.shape) - 0.5) * std * 12**0.5).div_(divisor)


@broken
class Divided(GaussianReleaseNoise):
    """The noise is not divided along with the sum."""

    def add(self, sums, std, divisor):
        super().add(sums, std * divisor, divisor)


@broken
class SkipsScalars(GaussianReleaseNoise):
    def add(self, sums, std, divisor):
        super().add([tensor for tensor in sums if tensor.dim()], std, divisor)


@broken
class Twice(GaussianReleaseNoise):
    def add(self, sums, std, divisor):
        super().add(sums[:1], std, 1.0)
        super().add(sums, std, divisor)


@broken
class Repeats(GaussianReleaseNoise):
    """One generator state for all tensors of a release."""

    def like(self, tensor, std):
        return GaussianReleaseNoise(self._generators, self._number).like(tensor, std)


class Global(GaussianNoise):
    """Noise from torch's default generator."""

    def release(self, number: int) -> GaussianReleaseNoise:
        class Release(GaussianReleaseNoise):
            def like(self, tensor, std):
                return torch.randn(tensor.shape) * std

        return Release(super().release(number)._generators, number)


class IgnoresRank(GaussianNoise):
    def __init__(self, seed=None, stream="train", rank=0) -> None:
        super().__init__(seed, stream)


class IgnoresStream(GaussianNoise):
    def __init__(self, seed=None, stream="train", rank=0) -> None:
        super().__init__(seed, rank=rank)


class IgnoresRelease(GaussianNoise):
    def release(self, number: int) -> GaussianReleaseNoise:
        return super().release(0)


class IgnoresSeed(GaussianNoise):
    def __init__(self, seed=None, stream="train", rank=0) -> None:
        super().__init__(None, stream, rank)


MUTANTS = [
    (TooSmall, lambda source: law_of_what_is_added(source, torch.float32)),
    (TooSmall, lambda source: law_of_what_is_returned(source, torch.float32)),
    (Uniform, lambda source: law_of_what_is_added(source, torch.float64)),
    (Uniform, lambda source: law_of_what_is_returned(source, torch.float64)),
    (Divided, lambda source: law_of_what_is_added(source, torch.float32)),
    (SkipsScalars, law_every_number_of_every_tensor_gets_noise_once),
    (Twice, law_every_number_of_every_tensor_gets_noise_once),
    (Repeats, law_nothing_is_shared),
    (IgnoresRank, law_nothing_is_shared),
    (IgnoresStream, law_nothing_is_shared),
    (IgnoresRelease, law_nothing_is_shared),
    (Global, law_a_users_seed_is_not_ours),
    (IgnoresSeed, law_a_seed_repeats_a_release),
]


@pytest.mark.parametrize(("mutant", "law"), MUTANTS, ids=[f"{i}" for i in range(len(MUTANTS))])
def test_mutants_are_caught(mutant: Source, law) -> None:
    with pytest.raises(AssertionError):
        law(mutant)
