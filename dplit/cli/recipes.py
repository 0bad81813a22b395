"""Where recipes are: a path, or the bare name of one that ships with the package."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml

from dplit.errors import ConfigurationError

Kind = Literal["fit", "compare"]
"""Which command a recipe is for."""


def shipped(kind: Kind = "fit") -> dict[str, Path]:
    """Return the recipes of the package by name: those of one command."""
    package = Path(str(files("dplit")))
    folder = next(f for f in (package / "recipes", package.parent / "recipes") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if kind_of(path) == kind}


def kind_of(path: Path) -> Kind:
    """Return the command a recipe is for: a top-level `base` makes it a comparison.

    What cannot be read is taken for a fit's, whose parser says what is wrong.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return "fit"
    return "compare" if isinstance(given, dict) and "base" in given else "fit"


def find(recipe: str, kind: Kind = "fit") -> Path:
    """Return the recipe's file.

    Raises:
        ConfigurationError: neither a file nor a shipped recipe, or one of another command; names the nearest.
    """
    other: Kind = "fit" if kind == "compare" else "compare"
    known = shipped(kind)
    path = Path(recipe) if Path(recipe).is_file() else {**shipped(other), **known}.get(recipe)
    if path is not None:
        if kind_of(path) == other:
            raise ConfigurationError(
                f"{recipe} is a recipe for dplit.{other}; run python -m dplit.{other} {recipe} instead"
            )
        return path
    near = get_close_matches(recipe, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(known)}"
    raise ConfigurationError(f"no recipe {recipe!r}: neither a file nor one that ships with dplit; {hint}")


def summary(path: Path) -> str:
    """Return a recipe's first comment line."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
