"""Where Gaussian noise comes from: the operating system keys fresh generators for every release."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count

import torch
from torch import Tensor

from dplit.noise.keys import Noise

CHUNK = 1 << 19
"""Most numbers drawn from one generator on the CPU, about 2 ms of one core."""
LEAST = 1 << 17
"""Fewest numbers that are worth a generator and a thread of their own."""
SPAN = 1 << 15
"""Numbers drawn and added at a time: they stay in a core's cache, and torch gives no operation this short to threads."""


class ReleaseNoise:
    """The noise of one release: on the CPU every chunk of numbers has a generator of its own, keyed once and used once.

    A device other than the CPU has one for the whole release, whose draws go on from one another.
    """

    def __init__(self, noise: Noise, release: int) -> None:
        self._noise, self._release = noise, release
        self._keys = count()
        self._devices: dict[torch.device, torch.Generator] = {}

    def gaussian(self, like: Tensor, std: float) -> Tensor:
        """Return independent N(0, std²) in the shape of `like`, in float32 or, for a float64 tensor, float64."""
        return gaussian(like, std, self._generator(like.device))

    def add(self, sums: Sequence[Tensor], std: float, divisor: float) -> None:
        """Add independent N(0, std²) to every number of tensors and divide them, in place.

        On the CPU chunks of `LEAST` to `CHUNK` numbers are shared among `torch.get_num_threads()` threads.

        Args:
            sums: contiguous tensors, float32 or float64, without gradient.
            std: in the unit of the sums.
            divisor: what the noisy sums are divided by.
        """
        for one in sums:
            if one.device.type != "cpu":
                one.add_(self.gaussian(one, std)).div_(divisor)
        flat = [one.view(-1) for one in sums if one.device.type == "cpu"]
        size = min(CHUNK, max(LEAST, sum(one.numel() for one in flat) // 8))
        keyed = [(chunk, next(self._keys)) for chunk in _chunks(flat, size)]
        threads = min(torch.get_num_threads(), len(keyed))
        queue = iter(keyed)
        others = [_pool(os.getpid()).submit(self._draw, queue, std, divisor) for _ in range(threads - 1)]
        self._draw(queue, std, divisor)
        for other in others:
            other.result()

    def _draw(self, queue: Iterator[tuple[list[Tensor], int]], std: float, divisor: float) -> None:
        """Serve chunks until there are no more; threads that share the queue never meet in a chunk."""
        scratch = {dtype: torch.empty(SPAN, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}
        for chunk, key in queue:
            generator = self._noise.generator(self._release, key=key)
            for spans in _spans(chunk):
                sizes = [span.numel() for span in spans]
                noise = scratch[spans[0].dtype][: sum(sizes)].normal_(0.0, std, generator=generator)
                torch._foreach_add_(spans, torch.split(noise, sizes))
                torch._foreach_mul_(spans, 1 / divisor)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type == "cpu":
            return self._noise.generator(self._release, device, next(self._keys))
        if device not in self._devices:
            self._devices[device] = self._noise.generator(self._release, device, next(self._keys))
        return self._devices[device]


def gaussian(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Return independent N(0, std²) in the shape of `like`, in float32 or, for a float64 tensor, float64."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.empty(like.shape, dtype=dtype, device=like.device).normal_(0.0, std, generator=generator)


def _chunks(flat: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Cut flat tensors, in their order, into runs of so many numbers in all."""
    chunk: list[Tensor] = []
    room = size
    for whole in flat:
        start, end = 0, whole.numel()
        while start < end:
            taken = min(room, end - start)
            chunk.append(whole[start : start + taken])
            start, room = start + taken, room - taken
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


def _spans(chunk: list[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a chunk into lists of tensors of one type and `SPAN` numbers at most in all."""
    found: list[Tensor] = []
    room = SPAN
    for span in (span for run in chunk for span in torch.split(run, SPAN)):
        if found and (span.numel() > room or span.dtype != found[0].dtype):
            yield found
            found, room = [], SPAN
        found.append(span)
        room -= span.numel()
    if found:
        yield found


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that wait between releases; a forked process has its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="dplit-noise")
