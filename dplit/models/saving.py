"""Folders that transformers and peft can load without dplit; written completely or not at all, and never overwritten."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dplit.errors import ConfigurationError
from dplit.models.huggingface import has_adapter

if TYPE_CHECKING:
    from dplit.models.huggingface import Net


def write_folder(folder: str | Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary folder, then rename it to `folder`; if `write` fails, nothing is left.

    Raises:
        ConfigurationError: there is something at `folder` already.

    """
    target = Path(folder)
    if target.exists():
        raise ConfigurationError(f"{target} exists and would be overwritten; give a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        unfinished.chmod(0o755)
        write(unfinished)
        os.rename(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return target


def write_model(net: Net, folder: Path) -> None:
    """Write a model with `save_pretrained`; of a peft model, the merged model, and the adapter alone under `adapter/`."""
    if not has_adapter(net):
        net.save_pretrained(folder)
        return
    copy.deepcopy(net).merge_and_unload().save_pretrained(folder)
    net.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
