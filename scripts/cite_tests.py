"""Check the tests that docs/guarantee.md cites, and follow those that moved.

python scripts/cite_tests.py          fails if a cited test is not in the cited file, and says where it is
python scripts/cite_tests.py --write  corrects the links of tests that moved to another file
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guarantee.md"
CITED = re.compile(r"\[`(?P<name>test_\w+)`\]\(\.\./(?P<path>tests/[\w/]+\.py)\)")
DEFINED = re.compile(r"^def (test_\w+)", re.MULTILINE)


def defined_tests(root: Path) -> dict[str, list[str]]:
    """Return the files, from the root, that define each test function."""
    where: dict[str, list[str]] = defaultdict(list)
    for path in sorted((root / "tests").rglob("test_*.py")):
        for name in DEFINED.findall(path.read_text(encoding="utf-8")):
            where[name].append(path.relative_to(root).as_posix())
    return where


def wrong(page: str, where: dict[str, list[str]]) -> list[tuple[str, str, list[str]]]:
    """Return the citations that do not hold: test, cited file, files that have a test of that name."""
    return [
        (cited["name"], cited["path"], where.get(cited["name"], []))
        for cited in CITED.finditer(page)
        if cited["path"] not in where.get(cited["name"], [])
    ]


def corrected(page: str, where: dict[str, list[str]]) -> str:
    """Return the page with links that follow the tests that moved.

    Where several files have a test of that name, it is taken to be where most other tests of its old file went.
    """
    moved: dict[str, Counter[str]] = defaultdict(Counter)
    for _, path, files in wrong(page, where):
        moved[path].update(files if len(files) == 1 else [])

    def link(cited: re.Match[str]) -> str:
        name, path = cited["name"], cited["path"]
        files = where.get(name, [])
        if files and path not in files:
            likely = max(files, key=lambda file: moved[path][file])
            path = likely if len(files) == 1 or moved[path][likely] else path
        return f"[`{name}`](../{path})"

    return CITED.sub(link, page)


def main() -> int:
    """Run the command; 1 if a citation does not hold."""
    page, where = PAGE.read_text(encoding="utf-8"), defined_tests(ROOT)
    if "--write" in sys.argv[1:]:
        page = corrected(page, where)
        PAGE.write_text(page, encoding="utf-8")
    broken = wrong(page, where)
    for name, path, files in broken:
        print(f"{name} is not in {path}; there is {'one in ' + ', '.join(files) if files else 'no test of that name'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
