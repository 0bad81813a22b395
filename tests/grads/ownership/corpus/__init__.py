"""Training steps that mix examples, and honest ones: test data for whatever tells them apart.

`corpus()` finds every step of the files beside this one; a new file is found by itself.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pkgutil import iter_modules

from tests.grads.ownership.corpus.base import STEPS, Batch, Step

__all__ = ["Batch", "Step", "corpus", "table"]


def corpus(prefix: str = "") -> list[Step]:
    """Return the steps of the files whose name begins so ("couplings", "honest"), all of them by default."""
    names = [m.name for m in iter_modules(__path__) if m.name != "base"]
    for name in names:
        import_module(f"{__name__}.{name}")
    wanted = tuple(f"{__name__}.{name}" for name in names if name.startswith(prefix))
    return [s for s in STEPS.values() if s.losses.__module__ in wanted]


def table() -> str:
    """Return how many steps of each kind there are, one line each."""
    count = Counter((s.mixes, s.kind) for s in corpus())
    rows = [f"{'mixes' if mixes else 'honest':7s} {kind:24s} {k:4d}" for (mixes, kind), k in sorted(count.items())]
    totals = [
        f"{word:7s} {'all':24s} {sum(s.mixes is m for s in corpus()):4d}"
        for word, m in (("mixes", True), ("honest", False))
    ]
    return "\n".join([*rows, *totals])
