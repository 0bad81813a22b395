"""`physical_batch_size="auto"`: the physical batch that fits in memory, found by trial before the first release."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dplit.clipping import ClippingPolicy
from dplit.errors import ConfigurationError
from dplit.grads.coupling.trial import Trials, undisturbed
from dplit.grads.per_example import PerExample
from dplit.protocols import fetch_samples, single_samples
from dplit.sampling.draws import PhysicalCollate
from dplit.sampling.units import People
from dplit.training.memory import device_memory
from dplit.training.memory.device_memory import GIB, peak
from dplit.training.step import norms_for

SAMPLED = 256
"""Records among which the longest are looked for."""
MARGIN = 0.8
"""Share of the room that a trial may take: longer records exist, and operations need memory for themselves."""
ON_CPU = 0.5
"""Share of the free memory that is the limit on the CPU, where other processes want some, too."""
BESIDE = 4
"""What a trial does not hold, in sizes of the trainable parameters: the draw's sum, `.grad`, two moments of Adam."""
SLACK = 0.1
"""A batch is quick enough whose time per example is within this share of the shortest."""

Parts = Callable[[Sequence[Any]], Iterable[tuple[Tensor, PerExample]]]
"""From samples to losses and gradients, as the strategy computes them."""


class Cost(NamedTuple):
    """What one physical batch takes: bytes at its peak, and seconds."""

    memory: int
    seconds: float


def find(
    module: nn.Module,
    parts: Parts,
    policy: ClippingPolicy,
    loader: DataLoader[Any],
    device: torch.device,
    most: int | None,
    memory_limit: float | None,
    trials: Trials | None = None,
) -> int:
    """Return the physical batch size to train with, a power of two, and print it.

    Doubled from 1 on while a trial (forward, backward, norms and weighted sum) takes no more memory than there is
    room; on CUDA the largest that fits. On the CPU a size is tried only if the sizes before it, continued on a straight
    line, say that it fits, and the smallest is taken whose time per example is within `SLACK` of the shortest. No size
    is larger than nearly all draws.

    A trial is made of the longest of `SAMPLED` random records, over and over where they are too few. Longer records
    may exist, for which `MARGIN` leaves room. Parameters, gradients, buffers and random generators are as before, the
    ledger and the policy are not asked. The size does not change what is released: a draw's sum over physical batches
    is the same but for rounding. It depends on the records, though, and on the machine, so it is all that is said.

    Args:
        module: in the mode it trains in.
        parts: computes the gradients of samples.
        policy: says which norms a step needs.
        loader: the train loader of Poisson draws.
        device: where the module is.
        most: examples that can be computed at one time, if there is a limit.
        memory_limit: GiB for training as a whole: of tensors on CUDA, of the process on the CPU. None for what is free,
            or half of it on the CPU. The probe, which compares eight examples at a time before this, is not held to it.
        trials: runs of the module that leave no trace; new ones if None.

    Raises:
        ConfigurationError: one example does not fit.
    """

    def cost(size: int) -> Cost | None:
        samples = [longest[i % len(longest)] for i in range(size)]
        return _cost(lambda: _tried(parts(samples), policy, device), device)

    free = _room(device, memory_limit)
    room = int(MARGIN * free) - BESIDE * _fixed(module)
    choose = max if device.type == "cuda" else quickest
    with undisturbed(module, trials):
        longest = _longest(loader)
        size = largest(cost, most or _enough(loader), room, _fixed(module), choose)
    if size is None:
        raise ConfigurationError(_too_small(device, memory_limit))
    _say(f"physical batch size {size} examples, found by trial on {device} with {free / GIB:.2g} GiB to take")
    return size


def largest(
    cost: Callable[[int], Cost | None],
    most: int,
    room: int,
    fixed: int = 0,
    choose: Callable[[Mapping[int, Cost]], int] = max,
) -> int | None:
    """Return the power of two to take, or None if 1 does not fit.

    Args:
        cost: tries a size; None where memory ran out.
        most: no larger size is tried.
        room: bytes that a size may take.
        fixed: bytes that do not grow with the size.
        choose: picks one of the sizes that fit; when it stays with one for two doublings, no more are tried.
    """
    tried: dict[int, Cost] = {}
    size = 1
    while size <= most:
        now = cost(size)
        if now is None or now.memory > room:
            break
        tried[size] = now
        if _next(tried, fixed) > room or 4 * choose(tried) <= size:
            break
        size *= 2
    return choose(tried) if tried else None


def quickest(tried: Mapping[int, Cost]) -> int:
    """Return the smallest size whose time per example is nearly the shortest."""
    each = {size: cost.seconds / size for size, cost in tried.items()}
    return min(size for size, seconds in each.items() if seconds <= (1 + SLACK) * min(each.values()))


def _next(tried: Mapping[int, Cost], fixed: int) -> int:
    """Return the memory of twice the last size, on a straight line through the last two."""
    size = max(tried)
    now = tried[size].memory
    return 2 * now - min(fixed, now) if size == 1 else now + 2 * (now - tried[size // 2].memory)


def _cost(compute: Callable[[], None], device: torch.device) -> Cost | None:
    memory = peak(compute, device)
    if memory is None or device.type == "cuda":
        return None if memory is None else Cost(memory, 0.0)
    start = time.perf_counter()
    compute()
    return Cost(memory, time.perf_counter() - start)


def _tried(parts: Iterable[tuple[Tensor, PerExample]], policy: ClippingPolicy, device: torch.device) -> None:
    """Do what a step does with a physical batch, and keep nothing."""
    for _, found in parts:
        norms_for(policy, found)
        found.weighted_sum(torch.zeros(found.examples, device=device))


def _room(device: torch.device, memory_limit: float | None) -> float:
    if memory_limit is None:
        return device_memory.free(device) * (1.0 if device.type == "cuda" else ON_CPU)
    return min(memory_limit * GIB - device_memory.used(device), device_memory.free(device))


def _fixed(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


def _longest(loader: DataLoader[Any]) -> list[Any]:
    """Return random records, those first whose batch of one holds the most numbers."""
    collate: PhysicalCollate = loader.collate_fn  # type: ignore[assignment]
    single = loader.dataset.dataset if isinstance(loader.dataset, People) else loader.dataset
    size: int = len(single)  # type: ignore[arg-type]
    chosen = np.random.default_rng().choice(size, min(SAMPLED, size), replace=False).tolist()
    return sorted(
        single_samples(fetch_samples(single, chosen)), key=lambda sample: -_numbers(collate.collate([sample]))
    )


def _numbers(batch: Any) -> int:
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, found.append, allow_frozen=True)
    return sum(t.numel() for t in found)


def _enough(loader: DataLoader[Any]) -> int:
    """Return the power of two that holds nearly all draws."""
    sampler: Any = loader.batch_sampler
    single = loader.dataset.dataset if isinstance(loader.dataset, People) else loader.dataset
    rows = sampler.rate * len(single)  # type: ignore[arg-type]
    return int(2 ** math.ceil(math.log2(max(1.0, rows + 3 * math.sqrt(rows)))))


def _too_small(device: torch.device, memory_limit: float | None) -> str:
    what = f"the free memory of {device}" if memory_limit is None else f"memory_limit={memory_limit:g} GiB"
    return f"{what} does not hold the model and one example; give more, train fewer parameters, or shorten the examples"


@rank_zero_only
def _say(line: str) -> None:
    print(f"dplit: {line}", file=sys.stderr)
