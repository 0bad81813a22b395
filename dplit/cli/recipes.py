"""Where recipes are: a path, or the bare name of one that ships with the package."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Literal

from dplit.cli.yaml import read
from dplit.errors import ConfigurationError

Kind = Literal["fit", "compare"]
"""Which command a recipe is for."""


def shipped(kind: Kind = "fit") -> dict[str, Path]:
    """Return the recipes of one command that ship with the package, by name.

    Example:
        >>> "adult_flat" in shipped(), "compare_adult" in shipped("compare")
        (True, True)
    """
    package = Path(str(files("dplit")))
    folder = next(f for f in (package / "recipes", package.parent / "recipes") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if kind_of(path) == kind}


def kind_of(path: Path) -> Kind:
    """Return the command a recipe is for: a top-level key `base` makes it a comparison.

    Raises:
        ConfigurationError: the file is no strict YAML, see `dplit.cli.yaml.read`.
    """
    recipe = read(path)
    return "compare" if isinstance(recipe, dict) and "base" in recipe else "fit"


def find(recipe: str, kind: Kind = "fit") -> Path:
    """Return the file of a recipe.

    Raises:
        ConfigurationError: neither a file nor a shipped recipe, then with the nearest name; a recipe of another command; or
            a file that is no strict YAML.
    """
    path = Path(recipe) if Path(recipe).is_file() else {**shipped("fit"), **shipped("compare")}.get(recipe)
    if path is None:
        known = shipped(kind)
        near = get_close_matches(recipe, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(known)}"
        raise ConfigurationError(f"no recipe {recipe!r}: neither a file nor one that ships with dplit; {hint}")
    other = kind_of(path)
    if other != kind:
        raise ConfigurationError(f"{recipe} is a recipe for dplit {other}; run dplit {other} {recipe} instead")
    return path


def summary(path: Path) -> str:
    """Return the first comment line of a recipe, or an empty text."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
