"""Overrides laid over a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from dplit.errors import ConfigurationError


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on it; neither is changed.

    A mapping goes into a mapping key by key; anything else takes the place of what was there. So does a mapping with
    another `class_path`: one class's arguments mean nothing to another.
    """
    result = deepcopy(dict(base))
    for key, value in over.items():
        before = result.get(key)
        within = isinstance(before, Mapping) and isinstance(value, Mapping) and not _another_class(before, value)
        result[key] = merged(before, value) if within else deepcopy(value)  # type: ignore[arg-type]
    return result


def overridden(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with dotted keys, such as `trainer.max_epochs`, laid over it one after the other.

    Raises:
        ConfigurationError: a key leads into something that is no mapping.
    """
    result = dict(base)
    for key, value in overrides.items():
        _check_way(result, key)
        result = merged(result, nested(key, value))
    return result


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for `a.b`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    found: dict[str, Any] = value
    return found


def lookup(mapping: Any, key: str) -> Any:
    """Return what a dotted key leads to, or None."""
    for part in key.split("."):
        mapping = mapping.get(part) if isinstance(mapping, Mapping) else None
    return mapping


def _another_class(before: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return "class_path" in value and before.get("class_path") != value["class_path"]


def _check_way(mapping: Mapping[str, Any], key: str) -> None:
    parts = key.split(".")
    for depth in range(1, len(parts)):
        found = lookup(mapping, ".".join(parts[:depth]))
        if found is not None and not isinstance(found, Mapping):
            raise ConfigurationError(
                f"{key} leads into {'.'.join(parts[:depth])}, which is {found!r}; override that whole, by a mapping"
            )
