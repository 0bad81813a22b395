"""A copy of the repository with some files more: what "one new file" means is tried in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("dplit", "recipes", "tests", "docs")


def copied(place: Path, files: Mapping[str, str]) -> Path:
    """Copy the repository into an empty folder and add files, given by their path in it; return the folder."""
    for part in PARTS:
        shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    for name, text in files.items():
        (place / name).write_text(text, encoding="utf-8")
    return place


def attempt(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy, on the copy's own package."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)


def run(checkout: Path, *arguments: str) -> str:
    """Return what Python prints in a copy, where it must not fail."""
    ran = attempt(checkout, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def passed(checkout: Path, *arguments: str) -> int:
    """Run tests in a copy, where none may fail, and return how many passed."""
    said = run(checkout, "-m", "pytest", *arguments, "-q", "-p", "no:cacheprovider")
    return int(said.rsplit(" passed", 1)[0].split()[-1])
