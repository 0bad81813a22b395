"""The rooms of the package: which there are, which way imports point, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dplit"
HEAVY = ("torch", "lightning", "transformers", "matplotlib", "pandas")

SHARED = {"discovery", "errors", "files", "groups", "predictions", "protocols", "validation"}
"""The vocabulary at the root, which every room may use; it imports nothing but itself."""
COMMANDS = {"__init__", "__main__", "account", "fit"}
"""Files of a few lines at the root: the public names, and what `python -m` needs."""

DOMAINS = {"privacy", "sampling", "noise", "grads", "clipping", "fairness", "data", "models"}
"""Each is one domain, and imports nothing of another."""

ALLOWED: dict[str, set[str]] = {
    **{room: set() for room in SHARED | DOMAINS},
    "hub": set(),
    "data": {"hub"},
    "models": {"hub"},
    "training": {"privacy", "sampling", "noise", "grads", "clipping"},
    "diagnostics": {"training", "sampling", "grads", "clipping", "fairness"},
    "cli": {"privacy", "fairness"},
    "cli/commands": {"cli", "compare", "privacy"},
    "compare": {"cli", "privacy", "fairness"},
    "__init__": {"clipping", "diagnostics", "fairness", "grads", "privacy", "training"},
    "__main__": {"cli"},
    "account": {"cli"},
    "fit": {"cli"},
}
"""What a room may import beside the shared vocabulary. `training` joins the domains, the commands stand on top of all; what
else they need is found by class path."""

INNER: dict[str, dict[str, set[str]]] = {
    "grads": {
        **{words: set() for words in ("types", "parameters", "precision")},
        "messages": {"types"},
        "torch_calls": {"types"},
        "batch_layout": {"messages", "types"},
        "withheld": {"types"},
        "factors": {"precision"},
        "batch_axis": {"types", "torch_calls"},
        "tape": {"factors", "batch_axis", "per_example", "precision", "types", "torch_calls", "messages", "parameters"},
        "rules": {"factors", "batch_axis", "tape", "types", "torch_calls"},
    },
    "training": {
        "memory": {"step"},
        "checks": set(),
        "step": {"charge", "memory", "reduce", "sensitivity"},
        "physical_batches": {"step"},
        "outlets": set(),
        "private_fit": {
            "checks",
            "physical_batches",
            "probing",
            "run_record",
            "setup",
            "state_guard",
            "step",
            "stepped",
        },
    },
    "compare": {
        "config": set(),
        "run": {"config", "analysis"},
        "analysis": {"config", "run"},
        "report": {"config", "run", "analysis"},
    },
}
"""For some parts of a room, what of the same room they may import: nothing enters `training/strategies` from below, say."""


def parts_of(path: Path) -> list[str]:
    """The rooms of a file, from the outside: `["grads", "tape", "registry"]`."""
    return list(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path) -> list[list[str]]:
    """The dplit modules that a file imports, in parts, without the leading `dplit`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return [name.split(".")[1:] for name in names if name.startswith("dplit.")]


FILES = sorted(PACKAGE.rglob("*.py"))


def wrong_arrows(path: Path) -> set[str]:
    """The rooms that a file imports and should not."""
    room, *inside = parts_of(path)
    allowed = ALLOWED.get("/".join(parts_of(path)[:2]), ALLOWED[room])
    arrows = [
        module for module in imported(path) if (PACKAGE / module[0]).is_dir() or (PACKAGE / f"{module[0]}.py").is_file()
    ]
    wrong = {other[0] for other in arrows} - {room} - SHARED - allowed
    inner = INNER.get(room, {})
    if inside and inside[0] in inner:
        same_room = {other[1] for other in arrows if other[0] == room and len(other) > 1}
        known = {p.stem for p in (PACKAGE / room).iterdir()}
        wrong |= {f"{room}/{part}" for part in (same_room & known) - {inside[0]} - inner[inside[0]]}
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(parts_of(path)))
def test_imports_point_one_way(path: Path) -> None:
    assert not wrong_arrows(path)


@pytest.mark.parametrize(
    ("file", "line", "arrow"),
    [
        ("privacy/ledger.py", "from dplit.grads import Tape", "grads"),
        ("training/step.py", "from dplit.training.strategies.private import PrivateHooks", "training/strategies"),
        ("grads/factors/base.py", "from dplit.grads.tape.tape import Tape", "grads/tape"),
        ("errors.py", "import dplit.cli.main", "cli"),
    ],
)
def test_mutant_an_arrow_the_other_way_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, line: str, arrow: str
) -> None:
    import shutil

    shutil.copytree(PACKAGE, tmp_path / "dplit", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "dplit")
    path = tmp_path / "dplit" / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    assert wrong_arrows(path) == {arrow}


def test_the_rooms_are_those_of_the_plan() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert folders == {room for room in ALLOWED if "/" not in room} - SHARED - COMMANDS
    assert {p.stem for p in PACKAGE.glob("*.py")} == SHARED | COMMANDS


def test_every_folder_says_what_it_is() -> None:
    """A package's first line is what a reader sees of a room."""
    silent = [
        p for p in FILES if p.name == "__init__.py" and not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))
    ]
    assert not silent


def files_that_test(path: Path) -> list[Path]:
    """The test files by which a module is found: one of its own name, or of the name of a folder that it is in."""
    *folders, name = parts_of(path)
    here = ROOT.joinpath("tests", *folders)
    above = [ROOT.joinpath("tests", *folders[:depth]) for depth in range(1, len(folders) + 1)]
    named_after_folders = [place / f"test_{folder.name}.py" for folder in above for place in (folder, folder.parent)]
    return [here / f"test_{name}.py", *named_after_folders]


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.stem not in ("__init__", "__main__")], ids=lambda path: "/".join(parts_of(path))
)
def test_a_module_has_a_test_of_its_name(path: Path) -> None:
    assert any(test.is_file() for test in files_that_test(path))


@pytest.mark.parametrize(
    "module",
    [
        *(
            "dplit",
            "dplit.privacy",
            "dplit.account",
            "dplit.fit",
            "dplit.__main__",
            "dplit.cli.main",
            "dplit.cli.recipes",
        ),
        *("dplit.privacy.planning", "dplit.compare.__main__"),
    ],
)
def test_no_torch_at_start_up(module: str) -> None:
    code = f"import sys, {module}; sys.exit(', '.join(n for n in {HEAVY!r} if n in sys.modules) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_only_one_file_knows_the_command_line_class() -> None:
    knows = [path for path in FILES if "LightningCLI" in path.read_text(encoding="utf-8")]
    assert ["/".join(parts_of(path)) for path in knows] == ["cli/lightning_cli"]
