"""Classes are found by the file that defines them: all of them, once, and nothing that is merely imported or abstract."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from dplit.discovery import subclasses


class Tool(ABC):
    @abstractmethod
    def use(self) -> str: ...


FILES = {
    "hammer.py": """
from tests.test_discovery import Tool
class Hammer(Tool):
    def use(self): return "knock"
class Abstract(Tool): ...
class Unrelated: ...
""",
    "saw.py": """
from tools.hammer import Hammer
class Saw(Hammer): ...
Alias = Saw
""",
    "__main__.py": "raise AssertionError('a command is not run to look for classes')",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package of three files, importable as `tools`."""
    place = tmp_path / "tools"
    place.mkdir()
    (place / "__init__.py").touch()
    for name, text in FILES.items():
        (place / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield place
    for name in [name for name in sys.modules if name.split(".")[0] == "tools"]:
        del sys.modules[name]


def test_every_concrete_class_is_found_once(package: Path) -> None:
    found = subclasses(Tool, "tools", [str(package)])
    assert [cls.__name__ for cls in found] == ["Hammer", "Saw"]
    assert found[1]().use() == "knock"


def test_a_new_file_is_enough(package: Path) -> None:
    (package / "drill.py").write_text(FILES["hammer.py"].replace("Hammer", "Drill"), encoding="utf-8")
    assert [cls.__name__ for cls in subclasses(Tool, "tools", [str(package)])] == ["Drill", "Hammer", "Saw"]


def test_a_file_that_cannot_be_imported_is_not_passed_over(package: Path) -> None:
    (package / "broken.py").write_text("import nothing_of_this_name", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        subclasses(Tool, "tools", [str(package)])
