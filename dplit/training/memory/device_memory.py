"""How much memory a device still has, and how much a computation takes at its peak."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30
_CGROUPS = Path("/sys/fs/cgroup")


def free(device: torch.device) -> int:
    """Return the bytes that can still be allocated; on the CPU within the limits of the container, too."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min([psutil.virtual_memory().available, *_within_cgroups()])


def used(device: torch.device) -> int:
    """Return the bytes in use: tensors on CUDA, the resident process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return psutil.Process().memory_info().rss


def peak(compute: Callable[[], object], device: torch.device) -> int | None:
    """Return the most bytes that a computation holds beyond what was there before, or None if they are not to be had.

    On the CPU it is the tensors that operations return; what an operation needs for itself meanwhile is not seen.
    """
    if device.type != "cuda":
        allocations = Allocations()
        with allocations:
            compute()
        return allocations.most
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        compute()
        return int(torch.cuda.max_memory_allocated(device)) - before
    except torch.OutOfMemoryError:
        pass
    gc.collect()
    torch.cuda.empty_cache()
    return None


class Allocations(TorchDispatchMode):
    """Counts the storages that operations make while it is active, and lets go of those that are freed.

    Attributes:
        now: bytes made and not freed.
        most: the largest `now` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.most: int = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it made."""
        for value in tree_leaves((args, kwargs)):
            self._meet(value, made=False)
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            self._meet(value, made=True)
        self.most = max(self.most, self.now)
        return result

    def _meet(self, value: Any, made: bool) -> None:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes() if made else 0
            self.now += self._known[key]
            weakref.finalize(storage, self._let_go, key).atexit = False

    def _let_go(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


def _within_cgroups() -> Iterator[int]:
    """Yield what each limit on this process's groups leaves; files in the cache do not count as used."""
    groups = Path("/proc/self/cgroup")
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kind, path = line.split(":", 2)
        if kind not in ("", "memory"):
            continue
        top = _CGROUPS / kind
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kind else ("memory.max", "memory.current")
        here = top / path.lstrip("/")
        for folder in {top, here, *(p for p in here.parents if top in p.parents)}:
            yield from _left(folder, *names)


def _left(folder: Path, limit: str, usage: str) -> Iterator[int]:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        stat = dict(line.split()[:2] for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if most.isdigit():
        cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        yield max(0, int(most) - now + cached)
