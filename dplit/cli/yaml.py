"""YAML without its two traps: a key that stands twice, and `1e-5`, which it takes for a word."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dplit.errors import ConfigurationError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for k, key in enumerate(keys) if key in keys[:k]), None)
        if twice is not None:
            raise ConfigurationError(f"{twice!r} stands twice in one mapping of the recipe; rename or drop one")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read(path: Path) -> Any:
    """Return what a file holds.

    Raises:
        ConfigurationError: no YAML, or a key that stands twice in one mapping.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
