"""Checkpoints written whole or not at all, and read without running anything."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from dplit.errors import JournalError
from dplit.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the destination, syncs and renames, so that a kill leaves the old file whole.

    Reads tensors and plain values only, unless the trainer is told `weights_only=False`.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the checkpoint to a local path."""
        with replacing(path) as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            JournalError: it is missing, damaged or holds something else than tensors and plain values.
        """
        if not Path(path).is_file():
            raise JournalError(f"checkpoint {path} does not exist; give the path of a .ckpt file")
        where = map_location or (lambda storage, location: storage)
        try:
            loaded = torch.load(path, map_location=where, weights_only=True if weights_only is None else weights_only)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise JournalError(
                f"checkpoint {path} is damaged or holds more than tensors and plain values; nothing was loaded; "
                "resume from another checkpoint"
            ) from error
        if not isinstance(loaded, dict):
            raise JournalError(f"checkpoint {path} holds a {type(loaded).__name__}, not a training state")
        return loaded
