"""Where recipes are: a path, or the bare name of one that ships with the package."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from dplit.errors import ConfigurationError


def shipped() -> dict[str, Path]:
    """Return the recipes of the package by name."""
    package = Path(str(files("dplit")))
    folder = next(f for f in (package / "recipes", package.parent / "recipes") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(recipe: str) -> Path:
    """Return the recipe's file.

    Raises:
        ConfigurationError: neither a file nor a shipped recipe; names the nearest.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    known = shipped()
    if recipe in known:
        return known[recipe]
    near = get_close_matches(recipe, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(known)}"
    raise ConfigurationError(f"no recipe {recipe!r}: neither a file nor one that ships with dplit; {hint}")


def summary(path: Path) -> str:
    """Return a recipe's first comment line."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
