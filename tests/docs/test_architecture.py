"""The picture of the rooms is that of the code."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.draw_architecture import PICTURE, STEPS, imports, picture, reduced, rooms, vocabulary
from tests.docs.pages import ROOT


def test_the_picture_is_that_of_the_code() -> None:
    drawn = picture(imports(ROOT / "dplit"), vocabulary(ROOT / "dplit"))
    assert PICTURE.read_text(encoding="utf-8") == drawn, "run python scripts/draw_architecture.py"


def test_the_page_describes_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in rooms(ROOT / "dplit") if f"| `{room}` |" not in page] == []
    steps = sorted(int(step) for numbers in STEPS.values() for step in numbers.split(", "))
    assert steps == list(range(1, 9))
    assert all(f"\n{step}. **`" in page for step in steps)


def test_imports_are_read_from_the_code(tmp_path: Path) -> None:
    for name, text in {
        "low/__init__.py": "import os\n",
        "middle/__init__.py": "from dplit.low import x\nfrom dplit.middle import y\n",
        "cli/__init__.py": "def f():\n    from dplit import middle\n    import dplit.low.x\n    from dplit.errors import E\n",
        "cli/main.py": "from dplit.cli import commands\n",
        "cli/__main__.py": "from dplit.cli.commands import fit\n",
        "cli/commands/__init__.py": "from dplit.cli import z\n",
        "errors.py": "",
        "fit.py": "from dplit.cli.commands.fit import main\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    direct = {"low": set(), "middle": {"low"}, "cli": {"middle", "low"}, "commands": {"cli"}}
    assert imports(tmp_path) == direct
    assert reduced(direct) == {**direct, "cli": {"middle"}}
    assert vocabulary(tmp_path) == ["errors"]


def test_a_circle_is_refused() -> None:
    with pytest.raises(SystemExit, match="a, b import one another in a circle"):
        reduced({"a": {"b"}, "b": {"a"}, "c": {"a"}})


def test_a_room_without_a_place_is_refused() -> None:
    with pytest.raises(SystemExit, match="attic has no place"):
        picture({"attic": set()}, [])


def test_the_picture_is_an_svg_with_every_room() -> None:
    tree = ElementTree.parse(PICTURE)
    words = {element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert set(rooms(ROOT / "dplit")) <= words


def places_named() -> list[str]:
    """The files and folders that "Where is ...?" names in its second column."""
    section = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Where is ...?")[1]
    rows = [
        line.split(" | ") for line in section.splitlines() if line.startswith("| ") and not line.startswith("| task")
    ]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[1])]


@pytest.mark.parametrize("place", places_named())
def test_the_places_are_there(place: str) -> None:
    assert (ROOT / "dplit" / place).exists() or (ROOT / place).is_file()


def test_there_are_twelve_tasks() -> None:
    assert len(places_named()) >= 12
