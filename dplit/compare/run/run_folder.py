"""The output folder: which of its runs are done, which failed, and where replaced runs are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from dplit.cli.yaml import Config, write
from dplit.compare.run.plan import Run
from dplit.errors import ConfigurationError
from dplit.files import set_aside, write_atomically

MARKER = "comparison.json"
"""A folder with this file holds a comparison."""
DONE, ERROR, LOG, RECIPE, ASIDE = "done.json", "error.txt", "run.log", "recipe.yaml", "aside"
"""Files in the folder of a run; and the folder that keeps what replaced runs left, as their ledgers still count."""

State = Literal["done", "failed", "other", "missing"]


def claim(out: Path, about: Config) -> None:
    """Make `out` the folder of a comparison, or go on with the comparison in it.

    Raises:
        ConfigurationError: it holds something else, or is no folder.
    """
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"{out} is no folder; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise ConfigurationError(f"{out} holds something that is no comparison; choose another --out or move it away")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / MARKER, json.dumps(about, indent=2) + "\n")


def state(out: Path, run: Run) -> State:
    """Return how far a run has come; "other" means finished under another configuration or version of dplit."""
    folder = out / run.path
    done = finished(folder)
    if done is not None:
        return "done" if done.get("digest") == run.digest else "other"
    return "failed" if (folder / ERROR).is_file() else "missing"


def finished(folder: Path) -> Config | None:
    """Return what a finished run wrote last (see `finish`), or None for a run that is not finished."""
    try:
        mark = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) else None


def prepare(out: Path, run: Run) -> Path:
    """Return a new folder for a run, with its recipe inside; what was there before is moved aside.

    Raises:
        ConfigurationError: a link leads out of `out`.
    """
    folder = _within(out, run)
    if folder.exists():
        set_aside(folder, out / ASIDE / run.path)
    folder.mkdir(parents=True)
    write_atomically(folder / RECIPE, write(run.config))
    return folder


def finish(folder: Path, run: Run, seconds: float) -> None:
    """Mark a run as finished, after everything else is written."""
    about = {
        "digest": run.digest,
        "variant": run.variant,
        "epsilon": run.epsilon,
        "point": dict(run.point),
        "seed": run.seed,
        "seconds": round(seconds, 2),
    }
    write_atomically(folder / DONE, json.dumps(about, indent=2) + "\n")


def fail(out: Path, run: Run, reason: str, details: str = "") -> None:
    """Mark a run as failed: the reason in one line, then details such as a traceback.

    Raises:
        ConfigurationError: a link leads out of `out`.
    """
    folder = _within(out, run)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ERROR, f"{reason}\n\n{details}".rstrip() + "\n")


def reason(out: Path, run: Run) -> str:
    """Return in one line why a run failed."""
    return (out / run.path / ERROR).read_text(encoding="utf-8").split("\n", 1)[0]


def _within(out: Path, run: Run) -> Path:
    folder = out / run.path
    if not folder.resolve().is_relative_to(out.resolve()):
        raise ConfigurationError(f"{folder} leads out of {out}; remove the link")
    return folder
