"""How Gaussian noise is cut into chunks and shared among threads changes nothing of its law."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, repeat

import pytest
import torch
from torch import Tensor

from dplit.noise import gaussian as noise_module
from dplit.noise.gaussian import GaussianNoise, GaussianReleaseNoise
from dplit.noise.keys import KeyedGenerators
from tests.noise.laws import DRAWS, STD, law_normal, law_uncorrelated


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


def noised(sums: list[Tensor], seed: int | None = None, release: int = 0, threads: int = 2) -> list[Tensor]:
    sums = [tensor.clone() for tensor in sums]
    with on_threads(threads):
        GaussianNoise(seed).release(release).add(sums, STD, 4.0)
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
    for seed in (None, 7):
        with small_chunks(chunk):
            rows = torch.cat([noised([torch.zeros(chunk * 8)], seed, release)[0].view(8, chunk) for release in (0, 1)])
        for i, j in combinations(range(len(rows)), 2):
            law_uncorrelated(rows[i], rows[j])


def test_chunks_share_nothing() -> None:
    law_chunks_share_nothing()


@pytest.mark.parametrize("forgotten", ["piece", "release"])
def test_mutant_chunks_keyed_alike_are_caught(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    honest = KeyedGenerators._words
    same = {
        "piece": lambda self, release, piece: honest(KeyedGenerators(1), release, 0),
        "release": lambda self, release, piece: honest(KeyedGenerators(1), 0, piece),
    }
    monkeypatch.setattr(KeyedGenerators, "_words", same[forgotten])
    with pytest.raises(AssertionError):
        law_chunks_share_nothing()


def test_mutant_one_generator_for_two_chunks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_module, "count", lambda: repeat(0))
    with pytest.raises(AssertionError):
        law_a_generator_serves_one_chunk()


def law_a_generator_serves_one_chunk() -> None:
    asked: list[int] = []

    class Noted(KeyedGenerators):
        def generator(self, release: int, device: torch.device | str = "cpu", piece: int = 0) -> torch.Generator:
            asked.append(piece)
            return super().generator(release, device, piece)

    fresh = GaussianReleaseNoise(Noted(), 3)
    with small_chunks(100), on_threads(3):
        fresh.add([torch.zeros(950), torch.zeros(60)], 1.0, 1.0)
        fresh.like(torch.zeros(4), 1.0)
        fresh.add([torch.zeros(101)], 1.0, 1.0)
    assert sorted(asked) == list(range(11 + 1 + 2))


def test_a_device_has_one_generator_per_release() -> None:
    class Pretending(KeyedGenerators):
        def generator(self, release: int, device: torch.device | str = "cpu", piece: int = 0) -> torch.Generator:
            return super().generator(release, "cpu", piece)

    fresh, gpu = GaussianReleaseNoise(Pretending(7), 0), torch.device("cuda", 0)
    first = fresh._generator(gpu)
    assert fresh._generator(gpu) is first
    others = [fresh._generator(torch.device("cuda", 1)), fresh._generator(torch.device("cpu"))]
    assert all(not torch.equal(first.get_state(), other.get_state()) for other in others)


def test_a_generator_serves_one_chunk() -> None:
    law_a_generator_serves_one_chunk()


def law_threads_change_nothing() -> None:
    sums = [torch.randn(shape, dtype=dtype) for shape in SHAPES for dtype in (torch.float32, torch.float64)]
    with small_chunks(1000, 128):
        alone, *shared = [noised(sums, 5, release=2, threads=threads) for threads in (1, 2, 4)]
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))


def test_threads_change_nothing_under_a_seed() -> None:
    law_threads_change_nothing()


def test_mutant_piece_by_thread_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = KeyedGenerators._words
    monkeypatch.setattr(
        KeyedGenerators, "_words", lambda self, release, piece: honest(self, release, threading.get_ident() % 2**31)
    )
    with pytest.raises(AssertionError):
        law_threads_change_nothing()


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_on_a_thread_surfaces(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    honest = KeyedGenerators.generator

    def failing(self: KeyedGenerators, release: int, device: str = "cpu", piece: int = 0) -> torch.Generator:
        if piece == 5:
            raise OSError("no entropy")
        return honest(self, release, device, piece)

    monkeypatch.setattr(KeyedGenerators, "generator", failing)
    with small_chunks(100), pytest.raises(OSError, match="no entropy"):
        noised([torch.zeros(2000)], threads=threads)


def test_every_number_gets_noise_once() -> None:
    """A chunk missed or served twice would show as a variance of 0 or 2."""
    with small_chunks(64, 16):
        draws = torch.stack([noised([torch.zeros(1003)], threads=3)[0] for _ in range(400)]) * 4.0 / STD
    variance = draws.square().mean(0)
    assert variance.min() > 0.5
    assert variance.max() < 1.6
