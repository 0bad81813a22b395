"""The subgroup vocabulary: a declared, public list of names, and the ids that say where each example belongs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dplit.errors import ConfigurationError

GroupKey = str | int | Callable[[Any], Tensor]
"""Where a batch keeps its group ids: a key, an index, or a function `batch -> (n,)` integer ids."""


def declared(groups: Sequence[str], name: str = "groups") -> tuple[str, ...]:
    """Return the declared list as a tuple; `name` is that of the argument, for messages.

    Raises:
        ConfigurationError: if a name is empty or stands twice.
    """
    names = tuple(str(name) for name in groups)
    if not all(names) or len(set(names)) != len(names):
        raise ConfigurationError(f"{name}={list(names)} must be distinct, non-empty names")
    return names


def group_ids(batch: Any, key: GroupKey, groups: Sequence[str]) -> Tensor:
    """Read the group ids of a batch.

    Args:
        batch: what the collate function made: a mapping, a sequence, or anything `key` understands.
        key: key, index or callable.
        groups: the declared list; id `k` means `groups[k]`.

    Returns:
        `(n,)` int64 ids, each in `[0, len(groups))`.

    Raises:
        ConfigurationError: the batch has no such entry, or an id lies outside the declared list.
    """
    found = _lookup(batch, key)
    if not isinstance(found, Tensor) or found.is_floating_point() or found.dim() != 1:
        raise ConfigurationError(f"group={key!r} must give integer ids of shape (n,), got {_describe(found)}")
    ids = found.to(torch.int64)
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < len(groups)):
        outside = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise ConfigurationError(
            f"group id {outside} lies outside the declared list of {len(groups)}: {', '.join(groups)}; declare it in groups"
        )
    return ids


def _lookup(batch: Any, key: GroupKey) -> Any:
    if callable(key):
        return key(batch)
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigurationError(
            f"the batch has no group entry {key!r} ({_describe(batch)}); return it from the data set or set group=..."
        ) from error


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping with keys {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
