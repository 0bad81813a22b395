"""One way to train: overrides of the base recipe, and the grid that is searched for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from dplit.cli.config_errors import RECIPE_KEYS
from dplit.cli.yaml import Config
from dplit.compare.config import checks
from dplit.errors import ConfigurationError

NONPRIVATE = "not private"
"""Name of the paired runs without privacy."""
NOISE = "trainer.strategy.init_args.noise"
RESERVED_FOLDERS = ("not-private", "aside")
"""Folders that no variant may use."""
SET_BY_COMPARISON = {
    "seed_everything": "seeds",
    "trainer.default_root_dir": "--out",
    NOISE: "epsilon and delta",
    "trainer.logger": "--out",
}
"""Keys of a recipe that a variant may not set, and by which of its own keys the comparison sets them."""
_NAME = re.compile(r"[A-Za-z0-9][\w .,+()=-]*")

Point = tuple[tuple[str, str | int | float], ...]
"""One choice from the grid: pairs of dotted key and value."""


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: as tables show it; its folder is named after it too.
        overrides: dotted keys and values, laid over the base recipe.
        points: the grid points that are tried for it; a single empty point where there is no grid.
        private: False for the paired runs without privacy.
    """

    name: str
    overrides: Mapping[str, object]
    points: tuple[Point, ...]
    private: bool = True


def parse_variant(name: str, overrides: object, grid: object, private: bool = True) -> Variant:
    """Check one variant; a key `grid` among its overrides replaces the comparison's `grid`.

    Raises:
        ConfigurationError: a name that cannot name a folder, an unknown key, an empty list.
    """
    reserved = folder_name(name).lower() in RESERVED_FOLDERS
    if private and (reserved or not _NAME.fullmatch(name) or name.strip(". ") != name):
        raise ConfigurationError(f"variant {name!r} names a folder too: use letters, digits, spaces and .,+()=-")
    where = f"variant {name}"
    if isinstance(overrides, Mapping) and "grid" in overrides:
        grid = overrides["grid"]
        overrides = {key: value for key, value in overrides.items() if key != "grid"}
    return Variant(
        name, checked_overrides({} if overrides is None else overrides, where), grid_points(grid, where), private
    )


def checked_overrides(overrides: object, where: str) -> Config:
    """Return overrides whose keys are keys of a recipe that a variant may set.

    Raises:
        ConfigurationError: otherwise; `where` begins the message.
    """
    if not isinstance(overrides, Mapping):
        raise ConfigurationError(f"{where}: {overrides!r} is no mapping of dotted keys to values")
    for key in overrides:
        _check_key(str(key), where)
    return {str(key): value for key, value in overrides.items()}


def grid_points(grid: object, where: str) -> tuple[Point, ...]:
    """Return every choice from a grid, in the order of its lists.

    Raises:
        ConfigurationError: no mapping of dotted keys to lists of plain values; `where` begins the message.

    Example:
        >>> grid_points({"model.init_args.learning_rate": [0.1, 0.5]}, "variant A")
        ((('model.init_args.learning_rate', 0.1),), (('model.init_args.learning_rate', 0.5),))
    """
    if not isinstance(grid, Mapping):
        raise ConfigurationError(f"{where}: grid must map dotted keys to lists of values, got {grid!r}")
    points = tuple(product(*(_grid_axis(str(key), values, where) for key, values in grid.items())))
    if len({label(point) for point in points}) < len(points):
        raise ConfigurationError(f"{where}: two grid values would share a folder; write them apart")
    return points


def _grid_axis(key: str, values: object, where: str) -> list[tuple[str, str | int | float]]:
    _check_key(key, f"{where}: grid")
    axis = []
    for value in checks.as_distinct_list(values, f"{where}: grid {key}"):
        if not isinstance(value, str | int | float):
            raise ConfigurationError(f"{where}: grid values must be plain numbers or words, as they name folders")
        axis.append((key, value))
    return axis


def check_differ(first: Variant, second: Variant) -> None:
    """Refuse two variants that are the same, or whose folders a file system may not tell apart.

    Raises:
        ConfigurationError: naming both.
    """
    if folder_name(first.name).lower() == folder_name(second.name).lower():
        raise ConfigurationError(f"variants {first.name} and {second.name} would share a folder; rename one")
    if (first.overrides, first.points) == (second.overrides, second.points):
        raise ConfigurationError(f"variants {first.name} and {second.name} are the same; drop one")


def folder_name(name: str) -> str:
    """Return the name of the folder of a variant's runs."""
    return name.replace(" ", "-")


def label(point: Point) -> str:
    """Return the name of a point in folders and tables, its pairs joined by commas.

    Example:
        >>> label((("model.init_args.learning_rate", 0.25),)), label(())
        ('learning_rate-0.25', 'as-given')
    """
    ends = [key.rsplit(".", 1)[-1] for key, _ in point]
    names = [end if ends.count(end) == 1 else key for (key, _), end in zip(point, ends, strict=True)]
    pairs = [
        f"{name}-{re.sub(r'[^A-Za-z0-9.+-]', '_', str(value))}" for name, (_, value) in zip(names, point, strict=True)
    ]
    return ",".join(pairs) or "as-given"


def _check_key(key: str, where: str) -> None:
    first = key.split(".")[0]
    if first not in RECIPE_KEYS:
        raise ConfigurationError(f"{where}: {key!r} is no key of a recipe{checks.nearest(first, RECIPE_KEYS)}")
    for reserved, instead in SET_BY_COMPARISON.items():
        if f"{key}.".startswith(f"{reserved}."):
            raise ConfigurationError(f"{where}: {key} is set for all runs alike, by {instead}; leave it out")
