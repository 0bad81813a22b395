"""What is saved of a model: weights that transformers and peft load without dplit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from dplit.models.huggingface import has_adapter

if TYPE_CHECKING:
    from dplit.models.huggingface import Net


def write_model(net: Net, folder: Path) -> None:
    """Write a model with `save_pretrained`; of a peft model, the merged model, and the adapter alone under `adapter/`."""
    if not has_adapter(net):
        net.save_pretrained(folder)
        return
    copy.deepcopy(net).merge_and_unload().save_pretrained(folder)
    net.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
