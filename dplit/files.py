"""Files written whole or not at all, and paths that are not taken."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path


def next_free_path(path: Path) -> Path:
    """Return path, or the first numbered one beside it that does not exist."""
    numbered = (path.with_stem(f"{path.stem}-{i}") for i in count(2))
    return next(p for p in chain([path], numbered) if not p.exists())
