"""The picture of the rooms is that of the code."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.draw_architecture import PICTURE, STEPS, imports, picture, reduced, rooms
from tests.docs.pages import ROOT


def test_the_picture_is_that_of_the_code() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture(imports(ROOT / "dplit")), (
        "run python scripts/draw_architecture.py"
    )


def test_the_page_describes_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in rooms(ROOT / "dplit") if f"| `{room}` |" not in page] == []
    steps = sorted(int(step) for numbers in STEPS.values() for step in numbers.split(", "))
    assert steps == list(range(1, 9))
    assert all(f"\n{step}. **`" in page for step in steps)


def test_imports_are_read_from_the_code(tmp_path: Path) -> None:
    for room, text in {
        "low": "import os\n",
        "middle": "from dplit.low import x\nfrom dplit.middle import y\n",
        "high": "def f():\n    from dplit import middle\n    import dplit.low.x\n    from dplit.errors import E\n",
    }.items():
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(text)
    assert imports(tmp_path) == {"low": set(), "middle": {"low"}, "high": {"middle", "low"}}
    assert reduced(imports(tmp_path)) == {"low": set(), "middle": {"low"}, "high": {"middle"}}


def test_a_circle_is_refused() -> None:
    with pytest.raises(SystemExit, match="a, b import one another in a circle"):
        reduced({"a": {"b"}, "b": {"a"}, "c": {"a"}})


def test_a_room_without_a_place_is_refused() -> None:
    with pytest.raises(SystemExit, match="attic has no place"):
        picture({"attic": set()})


def test_the_picture_is_an_svg_with_every_room() -> None:
    tree = ElementTree.parse(PICTURE)
    words = {element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert set(rooms(ROOT / "dplit")) <= words
