"""Recipes read strictly: one meaning for each key, no surprises in size, and every refusal in one line.

Scalars mean what they mean to jsonargparse, which reads the recipes of `dplit fit`: YAML 1.1 booleans (`yes`, `no`, `on`,
`off` beside `true` and `false`), `1e-5` is a number, and a date is text. PyYAML alone takes `1e-5` for text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Mapping
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML, MappingNode, Node, SequenceNode
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, MarkedYAMLError, YAMLError
from ruamel.yaml.resolver import BaseResolver

from dplit.errors import ConfigurationError

Config = dict[str, object]
"""A recipe, or a part of one: keys to scalars, lists and further mappings."""

MAX_DEPTH = 50
"""Mappings and lists inside one another; a recipe needs about ten."""
MAX_VALUES = 100_000
"""Values after aliases are followed; a recipe has about a hundred."""


class _Resolver(BaseResolver):
    """What a scalar without quotes means: the rules of jsonargparse's reader."""

    processing_version = (1, 1)

    def __init__(self, version: object = None, loader: object = None, loadumper: object = None) -> None:
        super().__init__(loader or loadumper)


for _tag, _first, _pattern in (
    ("bool", "yYnNtTfFoO", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
    (
        "float",
        "-+0123456789.",
        r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9_]+(?:[eE][-+][0-9]+)?"
        r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    ),
    (
        "int",
        "-+0123456789",
        r"[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+",
    ),
    ("null", ["~", "n", "N", ""], r"~|null|Null|NULL|"),
    ("merge", "<", r"<<"),
    ("value", "=", r"="),
):
    _Resolver.add_implicit_resolver_base(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), [*_first])


class _Constructor(SafeConstructor):
    def construct_document(self, node: Node) -> object:
        _check_extent(node)
        return super().construct_document(node)

    def check_mapping_key(
        self, node: Node, key_node: Node, mapping: Mapping[Hashable, object], key: Hashable, value: object
    ) -> bool:
        if key in mapping:
            raise _Refused(f"line {_line(key_node)}: the key {key!r} stands twice in one mapping; rename or drop one")
        return True


class _Refused(Exception):
    """What the reader refuses although it is YAML."""


def read(path: Path) -> object:
    """Return what a file holds.

    Raises:
        ConfigurationError: the file cannot be read, is not UTF-8 or not YAML, repeats a key in one mapping, or holds more
            than `MAX_VALUES` values or more than `MAX_DEPTH` levels; with the line where there is one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MantissaNoDotYAML1_1Warning)
            return _reader().load(path.read_text(encoding="utf-8"))
    except _Refused as error:
        raise ConfigurationError(f"{path}, {error}") from None
    except RecursionError as error:
        raise ConfigurationError(f"{path} holds more than {MAX_DEPTH} levels of mappings and lists") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (YAMLError, ValueError) as error:
        raise ConfigurationError(f"{path} is not YAML: {_in_one_line(error)}") from error


def write(config: Mapping[str, object]) -> str:
    """Return a configuration as YAML, keys in their order, which `read` and jsonargparse read back as it is."""
    stream = StringIO()
    _reader().dump(dict(config), stream)
    return stream.getvalue()


def _reader() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor = _Resolver, _Constructor
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


def _check_extent(root: Node) -> None:
    """Refuse a document that aliases make large or endless, before anything is built of it."""
    values: dict[int, int] = {}
    open_nodes: set[int] = set()

    def count(node: Node, depth: int) -> int:
        if id(node) in open_nodes:
            raise _Refused(f"line {_line(node)}: a value that holds itself; write it out without the alias")
        if depth > MAX_DEPTH:
            raise _Refused(f"line {_line(node)}: more than {MAX_DEPTH} levels of mappings and lists; use fewer")
        if id(node) not in values:
            open_nodes.add(id(node))
            values[id(node)] = 1 + sum(count(child, depth + 1) for child in _children(node))
            open_nodes.remove(id(node))
        if values[id(node)] > MAX_VALUES:
            raise _Refused(f"line {_line(node)}: aliases make more than {MAX_VALUES} values of this; write fewer")
        return values[id(node)]

    count(root, 0)


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _in_one_line(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {' '.join(str(error.problem).split())}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8; save the file as UTF-8"
    return " ".join(str(error).split())
