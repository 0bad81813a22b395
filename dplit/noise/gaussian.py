"""Gaussian noise from torch's generators, each keyed by the operating system and used once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count

import torch
from torch import Tensor

from dplit.noise.base import NoiseSource, ReleaseNoise
from dplit.noise.keys import KeyedGenerators

CHUNK = 1 << 19
"""Most numbers drawn from one generator on the CPU, about 2 ms of one core."""
LEAST = 1 << 17
"""Fewest numbers that are worth a generator and a thread of their own."""
SPAN = 1 << 15
"""Numbers drawn and added at a time: they stay in a core's cache, and torch gives no operation this short to threads."""


class GaussianNoise(NoiseSource):
    """N(0, std²) in float32, or float64 for float64 tensors.

    Float32 normals end near 5.8 standard deviations, and the low bits of floating-point noise are not hardened against
    a reader of exact bit patterns (Mironov 2012). A seeded source gives the same numbers whatever the number of threads.
    """

    name = "gaussian"

    @property
    def description(self) -> str:
        """One line for privacy statements."""
        key = "keyed by the operating system for every release" if self.seed is None else f"from the seed {self.seed}"
        return f"Gaussian, {key}, drawn in float32 (float64 for float64 parameters)"

    def release(self, number: int) -> GaussianReleaseNoise:
        """Return the noise of one release."""
        return GaussianReleaseNoise(KeyedGenerators(self.seed, self.stream, self.rank), number)


class GaussianReleaseNoise(ReleaseNoise):
    """The Gaussian noise of one release.

    On the CPU every chunk of numbers has a generator of its own, keyed once and used once; any other device has one
    generator for the whole release, whose draws continue from one another.

    Args:
        generators: where generators are from.
        number: of the release.
    """

    def __init__(self, generators: KeyedGenerators, number: int) -> None:
        self._generators, self._number = generators, number
        self._pieces = count()
        self._by_device: dict[torch.device, torch.Generator] = {}

    def like(self, tensor: Tensor, std: float) -> Tensor:
        """Return noise in the shape and on the device of `tensor`."""
        return _normal(tensor, std, self._generator(tensor.device))

    def add(self, sums: Sequence[Tensor], std: float, divisor: float) -> None:
        """Add noise and divide; on the CPU `torch.get_num_threads()` threads share chunks of `LEAST` to `CHUNK` numbers."""
        for tensor in sums:
            if tensor.device.type != "cpu":
                tensor.add_(self.like(tensor, std)).div_(divisor)
        flat = [tensor.view(-1) for tensor in sums if tensor.device.type == "cpu"]
        size = min(CHUNK, max(LEAST, sum(tensor.numel() for tensor in flat) // 8))
        numbered = [(chunk, next(self._pieces)) for chunk in _chunks(flat, size)]
        threads = min(torch.get_num_threads(), len(numbered))
        queue = iter(numbered)
        others = [_pool(os.getpid()).submit(self._serve, queue, std, divisor) for _ in range(threads - 1)]
        self._serve(queue, std, divisor)
        for other in others:
            other.result()

    def _serve(self, queue: Iterator[tuple[list[Tensor], int]], std: float, divisor: float) -> None:
        """Add noise to chunks until there are no more; threads that share the queue never take the same chunk."""
        scratch = {dtype: torch.empty(SPAN, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}
        for chunk, piece in queue:
            generator = self._generators.generator(self._number, piece=piece)
            for spans in _spans(chunk):
                sizes = [span.numel() for span in spans]
                noise = scratch[spans[0].dtype][: sum(sizes)].normal_(0.0, std, generator=generator)
                torch._foreach_add_(spans, torch.split(noise, sizes))
                torch._foreach_mul_(spans, 1 / divisor)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type == "cpu":
            return self._generators.generator(self._number, device, next(self._pieces))
        if device not in self._by_device:
            self._by_device[device] = self._generators.generator(self._number, device, next(self._pieces))
        return self._by_device[device]


def _normal(tensor: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Return independent N(0, std²) in the shape of `tensor`, in float32 or, for a float64 tensor, float64."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return torch.empty(tensor.shape, dtype=dtype, device=tensor.device).normal_(0.0, std, generator=generator)


def _chunks(flat: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Cut flat tensors, in their order, into runs of `size` numbers in all; the last may be shorter."""
    chunk: list[Tensor] = []
    room = size
    for tensor in flat:
        start, end = 0, tensor.numel()
        while start < end:
            taken = min(room, end - start)
            chunk.append(tensor[start : start + taken])
            start, room = start + taken, room - taken
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


def _spans(chunk: list[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a chunk into lists of tensors of one type and `SPAN` numbers at most in all."""
    together: list[Tensor] = []
    room = SPAN
    for span in (span for run in chunk for span in torch.split(run, SPAN)):
        if together and (span.numel() > room or span.dtype != together[0].dtype):
            yield together
            together, room = [], SPAN
        together.append(span)
        room -= span.numel()
    if together:
        yield together


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that wait between releases; a forked process has its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="dplit-noise")
