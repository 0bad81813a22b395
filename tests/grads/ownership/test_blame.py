"""Whose code it is that reads or mixes: folders whose names begin alike are different ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, ModuleType

import pytest
import torch

import dplit
from dplit.grads.ownership import blame
from dplit.grads.ownership.blame import Place, is_own, place, short
from dplit.grads.ownership.harmless import Harmless
from dplit.grads.ownership.python_reads import Read

DPLIT, TORCH = Path(dplit.__file__).parent, Path(torch.__file__).parent


def run_from(file: Path, what: str) -> object:
    """Evaluate an expression as code of a file."""
    code: CodeType = compile(f"def f():\n    return {what}\nfound = f()", str(file), "exec")
    names: dict[str, object] = {"is_own": is_own, "place": place}
    exec(code, names)
    return names["found"]


BESIDE = [
    DPLIT.with_name("dplit_models") / "model.py",
    DPLIT.with_name("dplits.py"),
    TORCH.with_name("torch_geo") / "nn.py",
]


@pytest.mark.parametrize("file", BESIDE, ids=lambda file: file.name)
def test_code_beside_dplit_and_torch_is_the_persons_own(file: Path) -> None:
    assert not run_from(file, "is_own()")
    assert run_from(file, "place()").file == str(file)  # type: ignore[attr-defined]


def test_code_of_dplit_is_its_own() -> None:
    assert run_from(DPLIT / "grads" / "tape" / "tape.py", "is_own()")


def test_mutant_that_compares_beginnings_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blame, "_DPLIT", str(DPLIT))
    assert run_from(BESIDE[0], "is_own()")


def test_a_path_beside_the_working_directory_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert short(str(tmp_path / "work" / "a" / "model.py")) == "a/model.py"
    assert short(str(tmp_path / "work2" / "model.py")) == "model.py"


def test_only_the_installed_file_is_known_to_be_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("transformers")
    package.__file__ = str(tmp_path / "transformers" / "__init__.py")
    monkeypatch.setitem(sys.modules, "transformers", package)

    def why(folder: Path) -> str | None:
        return Harmless().why(Read(Place(str(folder / "masking_utils.py"), 3, "f"), "is_nonzero"))

    assert why(tmp_path / "transformers") is not None
    for copied in (tmp_path / "my_transformers", tmp_path / "mine" / "transformers"):
        assert why(copied) is None
