"""Overrides laid over a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from dplit.cli.yaml import Config
from dplit.errors import ConfigurationError


def merged(base: Mapping[str, object], over: Mapping[str, object]) -> Config:
    """Return `base` with `over` laid on it; neither is changed.

    A mapping is merged into a mapping key by key; anything else replaces what was there. A mapping with another
    `class_path` also replaces it: the arguments of one class mean nothing to another.

    Example:
        >>> merged({"trainer": {"max_epochs": 3, "logger": None}}, {"trainer": {"max_epochs": 5}})
        {'trainer': {'max_epochs': 5, 'logger': None}}
    """
    result = deepcopy(dict(base))
    for key, value in over.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and not _is_another_class(before, value):
            result[key] = merged(before, value)
        else:
            result[key] = deepcopy(value)
    return result


def overridden(base: Mapping[str, object], overrides: Mapping[str, object]) -> Config:
    """Return `base` with dotted keys, such as `trainer.max_epochs`, laid over it one after the other.

    Raises:
        ConfigurationError: a key leads into something that is no mapping.
    """
    result = dict(base)
    for key, value in overrides.items():
        _check_path(result, key)
        result = merged(result, nested(key, value))
    return result


def nested(key: str, value: object) -> Config:
    """Return the mappings that a dotted key stands for.

    Example:
        >>> nested("a.b", 1)
        {'a': {'b': 1}}
    """
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def lookup(config: object, key: str) -> object:
    """Return what a dotted key leads to, or None.

    Example:
        >>> lookup({"a": {"b": 1}}, "a.b"), lookup({"a": 1}, "a.b")
        (1, None)
    """
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _is_another_class(before: Mapping[str, object], value: Mapping[str, object]) -> bool:
    return "class_path" in value and before.get("class_path") != value["class_path"]


def _check_path(config: Mapping[str, object], key: str) -> None:
    parts = key.split(".")
    for depth in range(1, len(parts)):
        parent = ".".join(parts[:depth])
        value = lookup(config, parent)
        if value is not None and not isinstance(value, Mapping):
            raise ConfigurationError(
                f"{key} leads into {parent}, which is {value!r}; override that whole, by a mapping"
            )
