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
        ConfigurationError: a name is empty or stands in the list twice.

    >>> declared(["Female", "Male"])
    ('Female', 'Male')
    """
    names = tuple(str(name) for name in groups)
    if not all(names) or len(set(names)) != len(names):
        raise ConfigurationError(f"{name}={list(names)} must be distinct, non-empty names")
    return names


def group_ids(batch: object, key: GroupKey, groups: Sequence[str]) -> Tensor:
    """Read the group ids of a batch.

    Args:
        batch: what the collate function made: a mapping, a sequence, or anything `key` understands.
        key: key, index or callable.
        groups: the declared list; id `k` means `groups[k]`.

    Returns:
        `(n,)` int64 ids, each in `[0, len(groups))`.

    Raises:
        ConfigurationError: the batch has no such entry, or an id lies outside the declared list.

    >>> group_ids({"sex": torch.tensor([1, 0])}, "sex", ["Female", "Male"])
    tensor([1, 0])
    """
    entry = _entry(batch, key)
    if not isinstance(entry, Tensor) or entry.is_floating_point() or entry.dim() != 1:
        raise ConfigurationError(f"group={key!r} must give integer ids of shape (n,), got {described(entry)}")
    ids = entry.to(torch.int64)
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < len(groups)):
        outside = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise ConfigurationError(
            f"group id {outside} lies outside the declared list of {len(groups)}: {', '.join(groups)}; declare it in groups"
        )
    return ids


def _entry(batch: Any, key: GroupKey) -> object:
    if callable(key):
        return key(batch)
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigurationError(
            f"the batch has no group entry {key!r} ({described(batch)}); return it from the data set or set group=..."
        ) from error


def described(value: object) -> str:
    """Say what a value is, for messages: its type with shape, keys or length.

    >>> described(torch.zeros(2, 3)), described({"x": 1}), described(None)
    ('a torch.float32 tensor of shape (2, 3)', 'a mapping with keys x', 'nothing')
    """
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping with keys {', '.join(map(str, value)) or '(none)'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return "nothing" if value is None else f"a {type(value).__name__}"
