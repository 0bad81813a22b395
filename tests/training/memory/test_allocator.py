"""What the process frees it keeps, where the C library can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from dplit.training.memory import allocator

FAULTS = """
import resource, sys
from dplit.training.memory.allocator import keep_freed
if sys.argv[1] == "keep" and not keep_freed(): sys.exit(3)
import torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def touch(): torch.ones(16_000_000).sum()
touch(); before = faults()
for _ in range(20): touch()
print(faults() - before)
"""
PAGES = 20 * 64_000_000 // 4096
"""Of twenty tensors that all come fresh from the operating system, as glibc gets whatever is larger than 32 MiB."""


def faults(how: str) -> int:
    """Pages that came fresh from the operating system while twenty tensors took the place of one that was freed."""
    command, root = [sys.executable, "-c", FAULTS, how], Path(__file__).parents[3]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if ran.returncode == 3:
        pytest.skip("no glibc to ask")
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_freed_memory_is_used_again() -> None:
    kept, fresh = faults("keep"), faults("mutant that lets it go")
    assert fresh > 0.9 * PAGES
    assert kept < fresh / 2


def test_a_system_without_glibc_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: object) -> object:
        raise OSError("no C library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert allocator.keep_freed.__wrapped__() is False
