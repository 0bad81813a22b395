"""What a computation takes at its peak, against torch's own profiler, and what is left of the memory."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dplit.training.memory import device_memory
from dplit.training.memory.device_memory import GIB, Allocations, free, peak, used

CPU = torch.device("cpu")


def steps(n: int) -> None:
    """Forward and backward of a small network, with views, something written in place, and buffers let go."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(inplace=True), nn.LayerNorm(128), nn.Linear(128, 32))
    x = torch.randn(n, 2, 64)
    held = net(x).mT.reshape(n, -1)
    del x
    torch.autograd.grad(held.square().sum(), list(net.parameters()))
    torch.zeros(n, 1000)


def profiled(n: int) -> int:
    """The highest running sum of what torch's allocator gave and took back."""
    with (
        contextlib.redirect_stderr(io.StringIO()),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run,
    ):
        steps(n)
    assert run.profiler is not None
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


def law_the_peak_is_the_allocators(n: int) -> None:
    found = peak(lambda: steps(n), CPU)
    assert found == pytest.approx(profiled(n), rel=0.02)


@pytest.mark.parametrize("n", [1, 16, 200])
def test_the_peak_is_the_allocators(n: int) -> None:
    law_the_peak_is_the_allocators(n)


def test_mutant_that_forgets_what_is_freed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # An address that is used again must count again, or the mutant depends on where the allocator puts things.
    monkeypatch.setattr(Allocations, "_let_go", lambda self, key: self._known.pop(key, None))
    with pytest.raises(AssertionError):
        law_the_peak_is_the_allocators(200)


def test_mutant_that_counts_views_of_what_was_there_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.zeros(1000, 1000)
    meet = Allocations._meet
    monkeypatch.setattr(Allocations, "_meet", lambda self, value, made: meet(self, value, True))
    assert peak(lambda: before[1:].T, CPU)
    monkeypatch.undo()
    assert peak(lambda: before[1:].T, CPU) == 0


def test_nothing_stays_counted() -> None:
    allocations = Allocations()
    with allocations:
        steps(20)
    assert allocations.now == 0 < allocations.most


def test_free_and_used_are_plausible() -> None:
    assert 0 < free(CPU) < 2**50
    assert 2**25 < used(CPU) < free(CPU) + 64 * GIB


def group(folder: Path, limit: str, usage: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_limits_of_containers_count(tmp_path: Path) -> None:
    group(tmp_path, "max", 10, 0)
    assert list(device_memory._left(tmp_path, "memory.max", "memory.current")) == []
    group(tmp_path, str(3 * GIB), 2 * GIB, GIB // 2)
    assert list(device_memory._left(tmp_path, "memory.max", "memory.current")) == [3 * GIB // 2]
    assert list(device_memory._left(tmp_path / "none", "memory.max", "memory.current")) == []


def test_a_system_without_cgroups_has_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "Path", lambda name: SimpleNamespace(exists=lambda: False))
    monkeypatch.setattr(device_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * GIB))
    assert free(CPU) == 7 * GIB


def test_the_tighter_of_machine_and_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * GIB))
    for left, least in ((8 * GIB, 7 * GIB), (2 * GIB, 2 * GIB)):
        monkeypatch.setattr(device_memory, "_within_cgroups", lambda left=left: iter([left]))
        assert free(CPU) == least


class Cuda:
    """Stands in for the allocator of a GPU of 1000 bytes, of which 100 are taken and 50 kept in a cache."""

    emptied = 0

    def __init__(self) -> None:
        self.top = 0

    def reset_peak_memory_stats(self, device: Any) -> None:
        self.top = 0

    def memory_allocated(self, device: Any) -> int:
        return 100

    def memory_reserved(self, device: Any) -> int:
        return 150

    def mem_get_info(self, device: Any) -> tuple[int, int]:
        return 850, 1000

    def max_memory_allocated(self, device: Any) -> int:
        return 100 + self.top

    def empty_cache(self) -> None:
        self.emptied += 1

    def take(self, amount: int) -> None:
        if amount > 900:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.top = max(self.top, amount)


def test_on_cuda_it_is_tried_and_running_out_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, device = Cuda(), torch.device("cuda", 0)
    monkeypatch.setattr(device_memory.torch, "cuda", cuda)
    assert (free(device), used(device)) == (900, 100)
    assert peak(lambda: cuda.take(300), device) == 300
    assert peak(lambda: cuda.take(901), device) is None
    assert cuda.emptied == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    device = torch.device("cuda", 0)
    assert peak(lambda: torch.zeros(2**20, device=device), device) == pytest.approx(2**22, rel=0.01)
    assert peak(lambda: torch.zeros(2**50, device=device), device) is None
