"""Draw docs/architecture.svg: the rooms of dplit and which imports which, read from the code.

python scripts/draw_architecture.py          writes the picture
python scripts/draw_architecture.py --check  fails if the picture is not that of the code

An arrow from A to B means that A imports B. An import that also follows along other arrows is not drawn.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"

PLACES: dict[str, tuple[float, int]] = {
    "compare": (0, 0),
    "commands": (1.3, 0),
    "diagnostics": (2.6, 0),
    "audit": (5, 0),
    "cli": (0, 1),
    "training": (3, 1),
    "fairness": (0, 2),
    "privacy": (1, 2),
    "sampling": (2, 2),
    "noise": (3, 2),
    "grads": (4, 2),
    "clipping": (5, 2),
    "data": (0, 3),
    "hub": (1.3, 3),
    "models": (2.6, 3),
}
"""Column and row of each room. A new room gets a place here."""

UPSTAIRS: dict[tuple[str, ...], str] = {("cli", "commands"): "commands", ("cli", "main"): "commands"}
"""Parts of a room that import what the rest of it must not: they count as a room of their own."""

STEPS = {"sampling": "1", "training": "2, 5, 8", "grads": "3", "clipping": "4", "privacy": "6", "noise": "7"}
"""The way of one batch, as docs/architecture.md counts it."""

WIDE, HIGH, COLUMN, ROW, MARGIN = 98, 40, 108, 96, 14


def rooms(package: Path) -> list[str]:
    """Return the names of the folders of the package that are packages themselves."""
    inner = {name for parts, name in UPSTAIRS.items() if package.joinpath(*parts, "__init__.py").is_file()}
    return sorted({path.parent.name for path in package.glob("*/__init__.py")} | inner)


def imports(package: Path) -> dict[str, set[str]]:
    """Return for each room the other rooms that its files import; `__main__.py` is the entry of a command, not a room's."""
    edges: dict[str, set[str]] = {room: set() for room in rooms(package)}
    for path in package.glob("*/**/*.py"):
        if path.name != "__main__.py":
            room = _room(path.relative_to(package).with_suffix("").parts)
            edges.setdefault(room, set()).update(_room(parts) for parts in _imported(path))
    return {room: targets & set(edges) - {room} for room, targets in edges.items()}


def vocabulary(package: Path) -> list[str]:
    """Return the modules beside the rooms that some room imports."""
    beside = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return sorted(beside & {parts[0] for path in package.glob("*/**/*.py") for parts in _imported(path)})


def _room(parts: tuple[str, ...]) -> str:
    return UPSTAIRS.get(parts[:2], parts[0])


def _imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the modules and names of dplit that a file imports, as their parts after `dplit`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (tuple(name.split(".")[1:]) for name in names if name.startswith("dplit."))


def reduced(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the edges without those that follow from others (the transitive reduction of an acyclic graph).

    Raises:
        SystemExit: two rooms import each other, directly or through others.
    """
    reached = {room: _reachable(edges, room) for room in edges}
    circular = sorted(room for room in edges if room in reached[room])
    if circular:
        raise SystemExit(f"{', '.join(circular)} import one another in a circle; imports must point one way")
    return {
        room: {target for target in targets if not any(target in reached[other] for other in targets - {target})}
        for room, targets in edges.items()
    }


def _reachable(edges: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        room = waiting.pop()
        if room not in seen:
            seen.add(room)
            waiting += edges[room]
    return seen


def picture(edges: Mapping[str, set[str]], shared: Sequence[str]) -> str:
    """Return the SVG of the rooms with their imports, above the modules that all of them share.

    Raises:
        SystemExit: a room has no place in `PLACES`.
    """
    homeless = sorted(set(edges) - set(PLACES))
    if homeless:
        raise SystemExit(f"{', '.join(homeless)} has no place; give it one in PLACES of scripts/draw_architecture.py")
    width, height = 2 * MARGIN + 5 * COLUMN + WIDE, 2 * MARGIN + 3 * ROW + HIGH + 74
    arrows = [_arrow(room, target) for room in sorted(edges) for target in sorted(reduced(edges)[room])]
    boxes = [_box(room) for room in sorted(edges)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
            f'  aria-label="{_in_words(reduced(edges))}"',
            '  font-family="system-ui, sans-serif">',
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"',
            '  orient="auto"><path d="M0 1 L9 5 L0 9 z" fill="#5c6bc0"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
            *arrows,
            *boxes,
            *_shared(width, height, shared),
            "</svg>\n",
        ]
    )


def _in_words(edges: Mapping[str, set[str]]) -> str:
    sentences = [f"{room} imports {', '.join(sorted(targets))}" for room, targets in sorted(edges.items()) if targets]
    return f"The rooms of dplit: {'; '.join(sentences)}."


def _corner(room: str) -> tuple[float, float]:
    column, row = PLACES[room]
    return MARGIN + column * COLUMN, MARGIN + 4 + row * ROW


def _arrow(room: str, target: str) -> str:
    (x1, y1), (x2, y2) = _corner(room), _corner(target)
    if y1 == y2:
        left = x1 < x2
        start = (x1 + (WIDE if left else 0), y1 + HIGH / 2)
        end = (x2 + (0 if left else WIDE), y2 + HIGH / 2)
    else:
        lean = max(-0.4, min(0.4, (x2 - x1) / (6 * WIDE))) * WIDE
        start, end = (x1 + WIDE / 2 + lean, y1 + HIGH), (x2 + WIDE / 2 - lean / 2, y2)
    line = f"M{start[0]:.0f} {start[1]:.0f} L{end[0]:.0f} {end[1]:.0f}"
    return f'<path d="{line}" fill="none" stroke="#5c6bc0" stroke-width="1.6" marker-end="url(#tip)"/>'


def _box(room: str) -> str:
    x, y = _corner(room)
    middle = x + WIDE / 2
    box = f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDE}" height="{HIGH}" rx="6" fill="#e8eaf6" stroke="#3949ab"/>'
    name = f'<text x="{middle:.0f}" y="{y + 26:.0f}" font-size="16" text-anchor="middle" fill="#1a237e">{room}</text>'
    return box + name + (_badge(x + WIDE, y, STEPS[room]) if room in STEPS else "")


def _badge(right: float, top: float, steps: str) -> str:
    wide = 14 + 6 * len(steps)
    x, y = right - wide + 8, top - 10
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide}" height="20" rx="10" fill="#ffb300"/>'
        f'<text x="{x + wide / 2:.0f}" y="{y + 15:.0f}" font-size="13" text-anchor="middle" fill="#212121">{steps}</text>'
    )


def _shared(width: float, height: float, modules: Sequence[str]) -> list[str]:
    top = height - MARGIN - 48
    return [
        f'<rect x="{MARGIN}" y="{top}" width="{width - 2 * MARGIN}" height="48" rx="6" fill="#f5f5f5" stroke="#9e9e9e"/>',
        f'<text x="{width / 2}" y="{top + 20}" font-size="15" text-anchor="middle" fill="#212121">{", ".join(modules)}</text>',
        f'<text x="{width / 2}" y="{top + 39}" font-size="14" text-anchor="middle" fill="#616161">'
        "the shared vocabulary: every room may import it</text>",
    ]


def main() -> int:
    """Write the picture, or compare it with the code."""
    drawn = picture(imports(ROOT / "dplit"), vocabulary(ROOT / "dplit"))
    if "--check" in sys.argv[1:]:
        current = PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == drawn
        print("up to date" if current else "docs/architecture.svg is not that of the code; run this without --check")
        return 0 if current else 1
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
