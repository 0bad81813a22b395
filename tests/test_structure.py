"""Imports point one way, and what must stay light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dplit"
SHARED = {"dplit.errors", "dplit.groups"}
ROOMS = {"privacy", "grads", "clipping", "data", "fairness"}
"""They import nothing from one another."""

ALLOWED = {
    "memory": set(),
    "noise": set(),
    "checkpoint": set(),
    "recipe": set(),
    "explain": set(),
    "models": {"pretrained"},
    "account": {"privacy", "advice"},
    "advice": {"privacy"},
    "step": {"privacy", "grads", "clipping", "noise", "memory"},
    "plan": {"privacy", "clipping", "data", "noise", "step"},
    "evidence": {"privacy"},
    "refusals": {"privacy", "data"},
    "capacity": set(),
    "physical": {"grads", "clipping", "data", "step", "capacity"},
    "intake": {"grads", "data", "step"},
    "strategy": {
        *("privacy", "grads", "clipping", "data", "noise", "step", "plan", "evidence", "refusals", "checkpoint"),
        *("physical", "intake"),
    },
    "diagnostics": {"clipping", "data", "fairness", "grads", "step", "refusals", "strategy"},
    "command": {"fairness", "evidence", "explain"},
    "fit": {"recipe", "command"},
    "compare": {"recipe", "explain", "command", "privacy", "fairness"},
    "errors": set(),
    "groups": set(),
    **{room: set() for room in ROOMS},
    "fetch": set(),
    "data": {"fetch", "pretrained"},
    "pretrained": {"fetch"},
}
HEAVY = ("torch", "lightning", "transformers", "matplotlib", "pandas")


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "dplit":
                names |= {f"dplit.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("dplit.")}


def room_of(module: str) -> str:
    return module.split(".")[1]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    others = {room_of(name) for name in imported(path) if name not in SHARED} - {room}
    assert others <= ALLOWED[room], f"{room} imports {others - ALLOWED[room]}"


@pytest.mark.parametrize(
    "module",
    [
        "dplit",
        "dplit.privacy",
        "dplit.account",
        "dplit.privacy.planning",
        "dplit.fit",
        "dplit.cli.recipes",
        "dplit.compare.__main__",
    ],
)
def test_no_torch_at_start_up(module: str) -> None:
    code = f"import sys, {module}; sys.exit(', '.join(n for n in {HEAVY!r} if n in sys.modules) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_only_the_command_knows_the_command_line_class() -> None:
    knows = [path for path in FILES if "LightningCLI" in path.read_text()]
    assert [path.name for path in knows] == ["command.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
