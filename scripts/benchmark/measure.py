"""What is measured: seconds with the methods taking turns, live memory of one step, and whether the sums agree."""

from __future__ import annotations

import gc
import math
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.parameter import is_lazy
from torch.profiler import ProfilerActivity, profile

from .methods import METHODS, Setup, Steps

SETTLE = 2
"""Steps before anything is measured: the optimizer has its state, caches and allocators are warm."""


class Ratio(NamedTuple):
    """A method's seconds a step, over its baseline's: of the medians, and the range over rounds."""

    seconds: float
    ratio: float
    low: float
    high: float


class Memory(NamedTuple):
    """Peak over one step, in bytes: tensors alive, and the process as the operating system sees it at its largest."""

    live: int
    resident: int


# -- time ----------------------------------------------------------------------------------------------------------


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in another order each turn, so that no method always runs after the same other method."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def interleaved(names: Sequence[str], rounds: int, seconds: Callable[[str], float]) -> dict[str, list[float]]:
    """Return each method's seconds, one a round: in a round every method has one turn."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds if names else 0):
        for name in rotated(names, turn):
            taken[name].append(seconds(name))
    return taken


def over(seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Compare the seconds of a method with those of its baseline, round by round."""
    ratios = [a / b for a, b in zip(seconds, baseline, strict=True)]
    median = statistics.median(seconds)
    return Ratio(median, median / statistics.median(baseline), min(ratios), max(ratios))


def timed(steps: Callable[[], None], repeat: int, device: torch.device) -> float:
    """Return the seconds of one step, of `repeat` in a row."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeat):
        steps()
    wait(device)
    return (time.perf_counter() - start) / repeat


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settle(steps: Steps, device: torch.device) -> None:
    """Take the steps that come before anything is measured."""
    for _ in range(SETTLE):
        steps()
    wait(device)


# -- memory --------------------------------------------------------------------------------------------------------


def memory(steps: Steps, device: torch.device) -> Memory:
    """Return the peak over a step, after the first ones. For a fresh process, which is all that resident can mean."""
    settle(steps, device)
    gc.collect()
    live = peak_on_cuda(steps, device) if device.type == "cuda" else alive() + highest(allocations(steps))
    return Memory(live, resident())


def resident() -> int:
    """Return the most bytes this process had in memory. Linux's getrusage would count the process that started it, too."""
    status = Path("/proc/self/status")
    largest = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * (int(largest.group(1)) if largest else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_on_cuda(steps: Steps, device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    steps()
    wait(device)
    return torch.cuda.max_memory_allocated(device)


def alive() -> int:
    """Return the bytes of all tensors that Python can reach, each storage once."""
    tensors = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and _has_memory(t)]
    tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    storages = (t.untyped_storage() for t in tensors if t.device.type == "cpu" and t.layout == torch.strided)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def _has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own: stand-ins of compilers and of torch.func, and lazy parameters, have none."""
    stand_in = isinstance(tensor, FakeTensor | FunctionalTensor)
    return not stand_in and not is_lazy(tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def allocations(steps: Steps) -> list[int]:
    """Return the bytes that one step allocates (or, below 0, frees), in order of time."""
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
    steps.inside(profiler.start)
    steps()
    steps.inside(profiler.stop)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]  # type: ignore[attr-defined]


def highest(changes: Sequence[int]) -> int:
    """Return the highest running sum, which starts at 0."""
    now = top = 0
    for change in changes:
        now += change
        top = max(top, now)
    return top


def largest(fits: Callable[[int], bool], start: int = 1) -> int:
    """Return the largest batch that fits, to about 6 %: doubled until one does not, then halved in between."""
    low, high = 0, start
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fits(name: str, setup: Setup) -> bool:
    """Whether a few steps with this batch fit on the GPU; nothing of them stays there."""
    try:
        _few_steps(name, setup)
    except torch.OutOfMemoryError:
        return False
    finally:
        setup.let_go()
        gc.collect()
        torch.cuda.empty_cache()
    return True


def _few_steps(name: str, setup: Setup) -> None:
    steps = METHODS[name].start(setup)
    settle(steps, setup.device)
    steps.close()


# -- agreement -----------------------------------------------------------------------------------------------------


def disagreement(name: str, setup: Callable[[], Setup], reference: str = "dplit") -> float:
    """Return how far a method's clipped sum is from the reference's, relative to the reference's L2 norm."""
    theirs, ours = moved(name, setup()), moved(reference, setup())
    return _norm([theirs[k] - ours[k] for k in ours]) / _norm([*ours.values()])


def moved(name: str, setup: Setup) -> Mapping[str, Tensor]:
    """Return what one bare step adds to each trainable parameter."""
    before = {k: p.detach().clone() for k, p in setup.model.named_parameters() if p.requires_grad}
    steps = METHODS[name].start(setup)
    steps()
    steps.close()
    after = dict(zip(before, (p for p in setup.model.parameters() if p.requires_grad), strict=True))
    return {k: after[k].detach() - before[k] for k in before}


def _norm(parts: Sequence[Tensor]) -> float:
    return math.hypot(*(float(part.double().norm()) for part in parts))
