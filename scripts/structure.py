"""Measure how a checkout of dplit is built, and print a Markdown table with a column for each checkout.

    python scripts/structure.py                      this checkout
    python scripts/structure.py ../before .          two of them side by side
    python scripts/structure.py --no-trace ../before  without the training step, which takes some ten seconds
    python scripts/structure.py --list modules_without_test .   the names behind a figure

What the figures mean:
  files at the root       .py files directly in dplit/
  modules                 .py files in dplit/ other than __init__.py and __main__.py
  files of one batch      files of dplit that one private training step enters, from the call that asks the train DataLoader
                          for the draw until `.grad` is written: the second step of a small MLP in a Lightning Trainer, with
                          a physical batch as large as the data set. The trace ends when the gradient is written, so that what
                          strategy and callbacks do after the optimizer's step is not in it.
  hops of one batch       distinct pairs of files (caller, called) where a function in one file of dplit directly calls a
                          function in another one during that step; returns and calls within a file are not counted
  rooms of one batch      of those files the rooms, which are the folders and files directly in dplit/, and in brackets the
                          distinct pairs of rooms among the hops
  entries of the strategy calls into the files that define DPStrategy during that step, from any other file; in brackets
                          those of them that come from outside dplit, from Lightning
  function length         lines of a function from `def` to its end, docstring included: median and 90th percentile
  Any, type: ignore       how often they stand in dplit/, as a word and as a text, comments included
  modules without a test  modules for which tests/ has neither test_MODULE.py nor test_FOLDER.py of a folder the module is in
  dependencies            distributions that pyproject.toml declares for running, against what dplit/ imports. Missing are
                          imports that no declared dependency, optional ones included, provides; unused are declared runtime
                          dependencies that are imported nowhere.
  duplicated blocks       runs of at least 6 lines that stand somewhere in dplit/ before, compared as code without comments,
                          docstrings, imports and formatting (as `ast.unparse` writes it); in brackets their lines
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple, TypedDict

SHORTEST_BLOCK = 6
"""Lines of code that must be equal to count as duplicated."""
TRACER = Path(__file__).with_name("trace_step.py")
UNKNOWN = "–"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Trace(TypedDict):
    """What scripts/trace_step.py prints."""

    files: list[str]
    hops: list[list[str]]
    strategy_entries: int
    strategy_entries_from_outside: int


class Block(NamedTuple):
    """Lines that stand somewhere before, too."""

    module: str
    first_line: int
    """In the module as `ast.unparse` writes it."""
    lines: int


@dataclass(frozen=True)
class Checkout:
    """A folder with `dplit/`, `tests/` and `pyproject.toml`."""

    root: Path

    @cached_property
    def sources(self) -> dict[str, str]:
        """The text of every .py file in dplit/, by its path below the root."""
        paths = sorted((self.root / "dplit").rglob("*.py"))
        return {path.relative_to(self.root).as_posix(): path.read_text(encoding="utf-8") for path in paths}

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The syntax tree of every .py file in dplit/."""
        return {path: ast.parse(text) for path, text in self.sources.items()}

    def root_files(self) -> list[str]:
        """Return the .py files directly in dplit/."""
        return [path for path in self.sources if path.count("/") == 1]

    def modules(self) -> list[str]:
        """Return the .py files in dplit/ other than __init__.py and __main__.py."""
        return [path for path in self.sources if Path(path).stem not in ("__init__", "__main__")]

    def function_lengths(self) -> list[int]:
        """Return the lines of every function, methods and inner functions included."""
        nodes = (node for tree in self.trees.values() for node in ast.walk(tree))
        return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes if isinstance(node, Function)]

    def count(self, pattern: str) -> int:
        """Return how often a regular expression matches in dplit/."""
        return sum(len(re.findall(pattern, text)) for text in self.sources.values())

    def modules_without_test(self) -> list[str]:
        """Return the modules with no test file of their own name or of a folder they are in."""
        tests = {path.stem for path in (self.root / "tests").rglob("test_*.py")}
        return [
            path
            for path in self.modules()
            if not any(f"test_{name}" in tests for name in (Path(path).stem, *Path(path).parts[:-1]))
        ]

    def imported(self) -> set[str]:
        """Return the top-level names of all packages that dplit/ imports, without those of Python and dplit itself."""
        names = {name.split(".")[0] for tree in self.trees.values() for name in imports_of(tree)}
        return {name for name in names if name not in sys.stdlib_module_names and name != "dplit"}

    @cached_property
    def declared(self) -> tuple[set[str], set[str]]:
        """The distributions that pyproject.toml declares for running, and those of its extras."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        return (
            {distribution_of(line) for line in project.get("dependencies", [])},
            {distribution_of(line) for extra in extras for line in extra},
        )

    def missing_dependencies(self) -> list[str]:
        """Return the imported packages that no declared distribution provides."""
        running, optional = self.declared
        providers = distributions_by_package()
        return sorted(name for name in self.imported() if not (running | optional) & providers.get(name, {name}))

    def unused_dependencies(self) -> list[str]:
        """Return the distributions declared for running of which nothing is imported."""
        running, _ = self.declared
        providers = distributions_by_package()
        used = {name for package in self.imported() for name in providers.get(package, {package})}
        return sorted(running - used)

    def duplicated_blocks(self) -> list[Block]:
        """Return the runs of at least `SHORTEST_BLOCK` lines of code that stand in dplit/ before."""
        return duplicated_blocks({path: code_lines(self.trees[path]) for path in self.sources})

    def trace(self) -> Trace | None:
        """Return what a private training step passes through; None if it cannot be run, and why on standard error."""
        environment = {**os.environ, "PYTHONPATH": str(self.root.resolve()), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-P", str(TRACER)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if ran.returncode:
            reason = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"{self.root}: the training step was not traced: {reason}", file=sys.stderr)
            return None
        trace: Trace = json.loads(ran.stdout.splitlines()[-1])
        return trace


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Yield the full names of all modules that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def distribution_of(requirement: str) -> str:
    """Return the normalised name in a requirement.

    Example:
        >>> distribution_of("jsonargparse[signatures]>=4.40"), distribution_of("ruamel.yaml >=0.19")
        ('jsonargparse', 'ruamel-yaml')
    """
    name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    return re.sub(r"[-_.]+", "-", name[0] if name else requirement).lower()


def distributions_by_package() -> dict[str, set[str]]:
    """Return the installed distributions that provide each top-level package, by normalised name."""
    return {
        package: {distribution_of(name) for name in distributions}
        for package, distributions in packages_distributions().items()
    }


def code_lines(tree: ast.Module) -> list[str]:
    """Return a module's code, one statement or head of a block a line, without comments, docstrings and imports."""
    return ast.unparse(_WithoutProse().visit(ast.parse(ast.unparse(tree)))).splitlines()


class _WithoutProse(ast.NodeTransformer):
    """Takes imports and texts that stand alone, as docstrings do, out of a tree."""

    def visit_Import(self, node: ast.Import) -> None:
        """Drop it."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Drop it."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | ast.Pass:
        """Replace a text by `pass`, so that a body is never empty."""
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if text else node


def duplicated_blocks(code: Mapping[str, Sequence[str]], shortest: int = SHORTEST_BLOCK) -> list[Block]:
    """Return the runs of at least `shortest` lines that stand in an earlier place, each as long as it can be.

    Args:
        code: lines of code of each module; indentation counts only relative to a run's first line.
        shortest: lines of the shortest run.

    Example:
        >>> duplicated_blocks({"a.py": ["x = 1", "y = 2", "z"], "b.py": ["x = 1", "y = 2"]}, shortest=2)
        [Block(module='b.py', first_line=1, lines=2)]
    """
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    blocks = []
    for module, lines in code.items():
        k = covered = 0
        while k + shortest <= len(lines):
            earlier = seen.setdefault(_dedented(lines[k : k + shortest]), (module, k))
            distinct = earlier[0] != module or earlier[1] + shortest <= k
            if distinct and k >= covered:
                length = _common_length(code[earlier[0]][earlier[1] :], lines[k:], shortest)
                blocks.append(Block(module, k + 1, length))
                covered = k + length
            k += 1
    return blocks


def _common_length(earlier: Sequence[str], later: Sequence[str], shortest: int) -> int:
    length = shortest
    while length < min(len(earlier), len(later)) and _dedented(earlier[: length + 1]) == _dedented(later[: length + 1]):
        length += 1
    return length


def _dedented(lines: Sequence[str]) -> tuple[str, ...]:
    indent = len(lines[0]) - len(lines[0].lstrip())
    return tuple(line[indent:] if line[:indent].isspace() or not indent else line for line in lines)


def figures(checkout: Checkout, traced: bool) -> dict[str, str]:
    """Return the rows of the table for one checkout."""
    lengths = sorted(checkout.function_lengths())
    blocks = checkout.duplicated_blocks()
    trace = checkout.trace() if traced else None
    modules, without = checkout.modules(), checkout.modules_without_test()
    percentile_90 = lengths[-(-9 * len(lengths) // 10) - 1] if lengths else 0
    return {
        "files at the root": str(len(checkout.root_files())),
        "files of one batch": str(len(trace["files"])) if trace else UNKNOWN,
        "hops of one batch": str(len(trace["hops"])) if trace else UNKNOWN,
        "rooms of one batch (hops between them)": f"{len(rooms(trace))} ({len(room_hops(trace))})"
        if trace
        else UNKNOWN,
        "entries of the strategy (from outside dplit)": (
            f"{trace['strategy_entries']} ({trace['strategy_entries_from_outside']})" if trace else UNKNOWN
        ),
        "function length, median / 90th percentile": (
            f"{statistics.median(lengths):g} / {percentile_90}" if lengths else UNKNOWN
        ),
        "Any": str(checkout.count(r"\bAny\b")),
        "type: ignore": str(checkout.count("type: ignore")),
        "modules without a test file": f"{len(without)} of {len(modules)}",
        "runtime dependencies declared": str(len(checkout.declared[0])),
        "dependencies missing": ", ".join(checkout.missing_dependencies()) or "none",
        "dependencies unused": ", ".join(checkout.unused_dependencies()) or "none",
        "duplicated blocks (lines)": f"{len(blocks)} ({sum(block.lines for block in blocks)})",
    }


def rooms(trace: Trace) -> set[str]:
    """Return the rooms of a step: the folders and files directly in the package that it enters."""
    return {file.split("/")[0] for file in trace["files"]}


def room_hops(trace: Trace) -> set[tuple[str, str]]:
    """Return the pairs of different rooms (caller, called) among the hops of a step."""
    pairs = {(caller.split("/")[0], called.split("/")[0]) for caller, called in trace["hops"]}
    return {(caller, called) for caller, called in pairs if caller != called}


def markdown(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Return a table with a row for each figure and a column for each checkout."""
    rows = next(iter(columns.values()))
    lines = [["", *columns], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(column[name] for column in columns.values())] for name in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


LISTS = ("modules_without_test", "duplicated_blocks", "missing_dependencies", "unused_dependencies", "files", "hops")


def names_behind(checkout: Checkout, figure: str) -> Iterable[object]:
    """Return what a figure counts."""
    if figure in ("files", "hops"):
        trace = checkout.trace()
        hops = [] if trace is None else [" -> ".join(hop) for hop in trace["hops"]]
        return hops if figure == "hops" or trace is None else trace["files"]
    names: Iterable[object] = getattr(checkout, figure)()
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[Path()], help="checkouts (default: the current folder)")
    parser.add_argument("--trace", action=argparse.BooleanOptionalAction, default=True, help="trace a training step")
    parser.add_argument("--list", choices=LISTS, help="print the names behind one figure in place of the table")
    options = parser.parse_args(arguments)
    for path in options.paths:
        if not (path / "dplit").is_dir() or not (path / "pyproject.toml").is_file():
            parser.error(f"{path} is no checkout: it has no dplit/ or no pyproject.toml")
    checkouts = {str(path): Checkout(path) for path in options.paths}
    if options.list:
        for checkout in checkouts.values():
            print(*names_behind(checkout, options.list), sep="\n")
    else:
        print(markdown({name: figures(checkout, options.trace) for name, checkout in checkouts.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
