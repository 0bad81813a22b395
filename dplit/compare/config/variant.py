"""One way to train: overrides of the base recipe, and the grid that is searched for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from dplit.cli.config_errors import RECIPE_KEYS
from dplit.compare.config import checks
from dplit.errors import ConfigurationError

NONPRIVATE = "not private"
"""Name of the paired runs without privacy."""
NOISE = "trainer.strategy.init_args.noise"
KEPT = ("not-private", "aside")
"""Folders that are no variant's."""
TAKEN = {
    "seed_everything": "seeds",
    "trainer.default_root_dir": "--out",
    NOISE: "epsilon and delta",
    "trainer.logger": "--out",
}
"""What only the comparison sets, and by which of its own keys."""
_NAME = re.compile(r"[A-Za-z0-9][\w .,+()=-]*")

Point = tuple[tuple[str, Any], ...]
"""One choice from the grid: pairs of dotted key and value."""


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: as tables show it; it names a folder too.
        overrides: dotted keys and values, laid over the base recipe.
        points: what is tried for it; one empty point where nothing is.
        private: False for the paired runs without privacy.
    """

    name: str
    overrides: Mapping[str, Any]
    points: tuple[Point, ...]
    private: bool = True


def variant(name: str, given: Any, grid: Any, private: bool = True) -> Variant:
    """Check one variant; a key `grid` of its own takes the place of `grid`.

    Raises:
        ConfigurationError: a name that is no folder's, an unknown key, an empty list.
    """
    if private and (not _NAME.fullmatch(name) or name.strip(". ") != name or folder_name(name).lower() in KEPT):
        raise ConfigurationError(f"variant {name!r} names a folder too: use letters, digits, spaces and .,+()=-")
    where = f"variant {name}"
    overrides = dict(given) if isinstance(given, Mapping) else given
    own = overrides.pop("grid", grid) if isinstance(overrides, dict) else grid
    return Variant(name, checked({} if overrides is None else overrides, where), points(own, where), private)


def checked(given: Any, where: str) -> dict[str, Any]:
    """Return overrides whose keys a recipe knows and a comparison leaves free.

    Raises:
        ConfigurationError: otherwise; `where` begins the message.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where}: {given!r} is no mapping of dotted keys to values")
    for key in given:
        _check_key(str(key), where)
    return {str(key): value for key, value in given.items()}


def points(grid: Any, where: str) -> tuple[Point, ...]:
    """Return every choice from a grid, in the order of its lists.

    Raises:
        ConfigurationError: no mapping of dotted keys to lists of plain values.
    """
    if not isinstance(grid, Mapping):
        raise ConfigurationError(f"{where}: grid must map dotted keys to lists of values, got {grid!r}")
    for key in grid:
        _check_key(str(key), f"{where}: grid")
    axes = [[(str(key), v) for v in checks.distinct(grid[key], f"{where}: grid {key}")] for key in grid]
    if not all(isinstance(value, str | int | float) for axis in axes for _, value in axis):
        raise ConfigurationError(f"{where}: grid values must be plain numbers or words, as they name folders")
    found = tuple(product(*axes))
    if len({label(point) for point in found}) < len(found):
        raise ConfigurationError(f"{where}: two grid values would share a folder; write them apart")
    return found


def check_differ(one: Variant, other: Variant) -> None:
    """Refuse two variants that are the same, or whose folders a file system may not tell apart."""
    if folder_name(one.name).lower() == folder_name(other.name).lower():
        raise ConfigurationError(f"variants {other.name} and {one.name} would share a folder; rename one")
    if (one.overrides, one.points) == (other.overrides, other.points):
        raise ConfigurationError(f"variants {other.name} and {one.name} are the same; drop one")


def folder_name(name: str) -> str:
    """Return the folder of a variant's runs."""
    return name.replace(" ", "-")


def label(point: Point) -> str:
    """Return a point as folders and tables name it: `learning_rate-0.25`, joined by commas."""
    ends = [key.rsplit(".", 1)[-1] for key, _ in point]
    names = [end if ends.count(end) == 1 else key for (key, _), end in zip(point, ends, strict=True)]
    pairs = [
        f"{name}-{re.sub(r'[^A-Za-z0-9.+-]', '_', str(value))}" for name, (_, value) in zip(names, point, strict=True)
    ]
    return ",".join(pairs) or "as-given"


def _check_key(key: str, where: str) -> None:
    top = key.split(".")[0]
    if top not in RECIPE_KEYS:
        raise ConfigurationError(f"{where}: {key!r} is no key of a recipe{checks.nearest(top, RECIPE_KEYS)}")
    for own, instead in TAKEN.items():
        if f"{key}.".startswith(f"{own}."):
            raise ConfigurationError(f"{where}: {key} is set for all runs alike, by {instead}; leave it out")
