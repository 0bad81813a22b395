"""Folders that transformers and peft read without dplit, written whole and never over another."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dplit.errors import ConfigurationError


def written(folder: str | Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder beside the one asked for, then rename it.

    Raises:
        ConfigurationError: there is something at `folder` already.

    """
    target = Path(folder)
    if target.exists():
        raise ConfigurationError(f"{target} exists and would be overwritten; give a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        beside.chmod(0o755)
        write(beside)
        os.rename(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return target


def free(folder: Path) -> Path:
    """Return the folder, or the first of `folder-1`, `folder-2`, … that does not exist."""
    taken = 0
    while (found := folder if not taken else folder.with_name(f"{folder.name}-{taken}")).exists():
        taken += 1
    return found


def write_model(net: Any, path: Path) -> None:
    """Write a transformers model; of a peft one, the merged model, and the adapter alone under `adapter/`."""
    if not hasattr(net, "merge_and_unload"):
        net.save_pretrained(path)
        return
    copy.deepcopy(net).merge_and_unload().save_pretrained(path)
    net.save_pretrained(path / "adapter", save_embedding_layers=False)
