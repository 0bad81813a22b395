"""Promises 3 to 5: noise is fresh, its own, and has the stated law."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, repeat

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dplit.noise import gaussian as noise_module
from dplit.noise.gaussian import ReleaseNoise, gaussian
from dplit.noise.keys import Noise

DRAWS = 1_000_000
STD = 2.5
ALARM = 1e-7
"""Chance of a false alarm of each check; the draws are fresh."""


def draw(dtype: torch.dtype, noise: Noise | None = None, release: int = 0) -> Tensor:
    generator = (noise or Noise()).generator(release)
    return noise_module.gaussian(torch.empty(DRAWS, dtype=dtype), STD, generator)


def law_normal(values: Tensor, std: float = STD) -> None:
    """Kolmogorov-Smirnov, mean and variance of n values that should be N(0, std²)."""
    z = values.double().numpy() / std
    n = len(z)
    limit = stats.norm.isf(ALARM / 2)
    assert abs(z.mean()) * np.sqrt(n) < limit
    assert abs(z.var() - 1) / np.sqrt(2 / n) < limit
    assert stats.kstest(z[:: max(1, n // 200_000)], "norm").pvalue > ALARM


def law_uncorrelated(a: Tensor, b: Tensor) -> None:
    a, b = a.double().flatten(), b.double().flatten()
    assert abs(float(torch.dot(a, b) / (a.norm() * b.norm()))) < 5.5 / np.sqrt(len(a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_law(dtype: torch.dtype) -> None:
    values = draw(dtype)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    law_normal(values)


def test_tensors_of_one_release_are_independent() -> None:
    generator = Noise().generator(0)
    like = torch.empty(200_000)
    law_uncorrelated(gaussian(like, 1.0, generator), gaussian(like, 1.0, generator))


def test_releases_processes_and_users_seeds_share_nothing() -> None:
    torch.manual_seed(0)
    first = draw(torch.float32)
    torch.manual_seed(0)
    law_uncorrelated(first, draw(torch.float32))
    law_uncorrelated(draw(torch.float32, Noise(7), 0), draw(torch.float32, Noise(7), 1))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(torch.float32)
    assert torch.equal(before, torch.get_rng_state())


def test_a_fixed_seed_repeats_a_release() -> None:
    assert torch.equal(draw(torch.float32, Noise(7), 3), draw(torch.float32, Noise(7), 3))


def test_the_whole_state_is_keyed() -> None:
    """torch's `manual_seed` reads 32 bits of its argument; ours must tell 10,000 of 2^32 apart and use every word."""
    states = torch.stack([Noise().generator(0).get_state()[24 : 24 + 8 * 624] for _ in range(3)])
    words = states.view(3, 624, 8)
    assert (words[0, :, :4] != words[1, :, :4]).any(1).float().mean() > 0.99
    assert (words[:, :, 4:] == 0).all()


# -- many generators, many threads -------------------------------------------------------------------------------


@contextmanager
def small_chunks(chunk: int = 1 << 12, span: int = 1 << 9) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_module, "CHUNK", chunk)
        patch.setattr(noise_module, "LEAST", chunk)
        patch.setattr(noise_module, "SPAN", span)
        yield


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def noised(sums: list[Tensor], noise: Noise | None = None, release: int = 0, threads: int = 2) -> list[Tensor]:
    sums = [one.clone() for one in sums]
    with on_threads(threads):
        ReleaseNoise(noise or Noise(), release).add(sums, STD, 4.0)
    return sums


SHAPES: list[tuple[int, ...]] = [(), (0,), (7,), (3, 5000), (4096,), (1, 1), (9000, 2), (1 << 12, 3), (0, 4), (511,)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_law_of_many_chunks(dtype: torch.dtype, threads: int) -> None:
    sums = [torch.randn(shape, dtype=dtype) for shape in [*SHAPES, (DRAWS,)]]
    with small_chunks():
        results = noised(sums, threads=threads)
    values = torch.cat([(4.0 * r - s).flatten() for r, s in zip(results, sums, strict=True)])
    assert values.dtype == dtype
    law_normal(values)


def law_chunks_share_nothing() -> None:
    """Any two chunks of a release, and the same chunk of any two releases, seeded or not."""
    chunk = 1 << 12
    for noise in (Noise(), Noise(7)):
        with small_chunks(chunk):
            rows = torch.cat([noised([torch.zeros(chunk * 8)], noise, release)[0].view(8, chunk) for release in (0, 1)])
        for i, j in combinations(range(len(rows)), 2):
            law_uncorrelated(rows[i], rows[j])


def test_chunks_share_nothing() -> None:
    law_chunks_share_nothing()


@pytest.mark.parametrize("forgotten", ["key", "release"])
def test_mutant_chunks_keyed_alike_are_caught(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    honest = Noise._words
    same = {
        "key": lambda self, release, key: honest(Noise(1), release, 0),
        "release": lambda self, release, key: honest(Noise(1), 0, key),
    }
    monkeypatch.setattr(Noise, "_words", same[forgotten])
    with pytest.raises(AssertionError):
        law_chunks_share_nothing()


def test_mutant_one_generator_for_two_chunks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_module, "count", lambda: repeat(0))
    with pytest.raises(AssertionError):
        law_a_generator_serves_one_chunk()


def law_a_generator_serves_one_chunk() -> None:
    asked: list[int] = []

    class Noted(Noise):
        def generator(self, release: int, device: torch.device | str = "cpu", key: int = 0) -> torch.Generator:
            asked.append(key)
            return super().generator(release, device, key)

    fresh = ReleaseNoise(Noted(), 3)
    with small_chunks(100), on_threads(3):
        fresh.add([torch.zeros(950), torch.zeros(60)], 1.0, 1.0)
        fresh.gaussian(torch.zeros(4), 1.0)
        fresh.add([torch.zeros(101)], 1.0, 1.0)
    assert sorted(asked) == list(range(11 + 1 + 2))


def test_a_device_has_one_generator_per_release() -> None:
    class Pretending(Noise):
        def generator(self, release: int, device: torch.device | str = "cpu", key: int = 0) -> torch.Generator:
            return super().generator(release, "cpu", key)

    fresh, gpu = ReleaseNoise(Pretending(7), 0), torch.device("cuda", 0)
    first = fresh._generator(gpu)
    assert fresh._generator(gpu) is first
    others = [fresh._generator(torch.device("cuda", 1)), fresh._generator(torch.device("cpu"))]
    assert all(not torch.equal(first.get_state(), other.get_state()) for other in others)


def test_a_generator_serves_one_chunk() -> None:
    law_a_generator_serves_one_chunk()


def law_threads_change_nothing() -> None:
    sums = [torch.randn(shape, dtype=dtype) for shape in SHAPES for dtype in (torch.float32, torch.float64)]
    with small_chunks(1000, 128):
        alone, *shared = [noised(sums, Noise(5), release=2, threads=threads) for threads in (1, 2, 4)]
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))


def test_threads_change_nothing_under_a_seed() -> None:
    law_threads_change_nothing()


def test_mutant_key_by_thread_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Noise._words
    monkeypatch.setattr(
        Noise, "_words", lambda self, release, key: honest(self, release, threading.get_ident() % 2**31)
    )
    with pytest.raises(AssertionError):
        law_threads_change_nothing()


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_on_a_thread_surfaces(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    honest = Noise.generator

    def failing(self: Noise, release: int, device: str = "cpu", key: int = 0) -> torch.Generator:
        if key == 5:
            raise OSError("no entropy")
        return honest(self, release, device, key)

    monkeypatch.setattr(Noise, "generator", failing)
    with small_chunks(100), pytest.raises(OSError, match="no entropy"):
        noised([torch.zeros(2000)], threads=threads)


def test_every_number_gets_noise_once() -> None:
    """A chunk missed or served twice would show as a variance of 0 or 2."""
    with small_chunks(64, 16):
        draws = torch.stack([noised([torch.zeros(1003)], threads=3)[0] for _ in range(400)]) * 4.0 / STD
    variance = draws.square().mean(0)
    assert variance.min() > 0.5
    assert variance.max() < 1.6


@pytest.mark.parametrize("wrong", [0.99, 1.01])
def test_mutant_std_is_caught(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    honest = gaussian
    monkeypatch.setattr(noise_module, "gaussian", lambda like, std, g: honest(like, wrong * std, g))
    with pytest.raises(AssertionError):
        law_normal(draw(torch.float32))


def test_mutant_shared_key_is_caught() -> None:
    like = torch.empty(200_000)
    with pytest.raises(AssertionError):
        law_uncorrelated(gaussian(like, 1.0, Noise(1).generator(0)), gaussian(like, 1.0, Noise(1).generator(0)))


def test_mutant_default_generator_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "generator", lambda self, *key, **named: torch.default_generator)
    with pytest.raises(AssertionError):
        test_releases_processes_and_users_seeds_share_nothing()
