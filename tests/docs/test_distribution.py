"""What people install: a wheel that is complete, runs away from the checkout, and tells type checkers its types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from trove_classifiers import classifiers

from tests.docs.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["repo_url"]

# -- the project's own description ------------------------------------------------------------------------------------


def test_one_address_of_the_repository() -> None:
    assert PROJECT["urls"]["Homepage"] == REPOSITORY
    assert all(address.startswith(REPOSITORY) for address in PROJECT["urls"].values())
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"] == REPOSITORY
    for page in ("README.md", "SECURITY.md"):
        assert REPOSITORY in (ROOT / page).read_text(encoding="utf-8")


def test_addresses_of_files_in_the_readme_exist() -> None:
    """The README is also shown where relative links lead nowhere."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = [part.split(")")[0].split("#")[0] for part in text.split(f"]({REPOSITORY}/blob/main/")[1:]]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    assert text.count("](") == text.count("](https://")


def test_classifiers_are_known() -> None:
    assert set(PROJECT["classifiers"]) <= classifiers


def test_the_citation_is_of_this_version() -> None:
    """The keys that the Citation File Format 1.2.0 requires, and those that go with a release."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["cff-version"]) == "1.2.0"
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text


# -- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network by the build backend that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    pip("wheel", *options, str(ROOT))
    (built,) = folder.glob("dplit-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment: the wheel, and everything else from this environment but its dplit."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel))
    (site,) = folder.glob("venv/lib/python*/site-packages")
    paths = {sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n", encoding="utf-8")
    return python


def pip(*arguments: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def outside(python: Path, folder: Path, *arguments: str) -> str:
    """Run Python in a folder outside the checkout, without its path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    ran = subprocess.run(
        [str(python), *arguments],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.slow
def test_the_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(next(f for f in files if f.endswith("/METADATA"))).decode())
    kept = [path for path in ROOT.joinpath("dplit").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in kept} <= files
    assert {f"dplit/recipes/{recipe.name}" for recipe in ROOT.glob("recipes/*.yaml")} <= files
    information = next(f for f in files if f.endswith("/METADATA")).removesuffix("/METADATA")
    assert {f"{information}/licenses/LICENSE", f"{information}/licenses/dplit/data/files/ADULT-LICENCE.txt"} <= files
    assert not [f for f in files if not f.startswith(("dplit/", f"{information}/"))]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Project-URL")


@pytest.mark.slow
def test_what_is_installed_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    file = outside(installed, tmp_path, "-c", "import dplit; print(dplit.__file__)").strip()
    assert Path(file).is_relative_to(installed.parents[1])


@pytest.mark.slow
def test_it_trains_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    said = outside(installed, tmp_path, "-m", "dplit.fit", "adult_flat", "--trainer.max_epochs", "1")
    assert "epsilon" in said
    assert {"privacy.md", "ledger.jsonl", "fairness.png"} <= {path.name for path in tmp_path.glob("runs/adult_flat/*")}


@pytest.mark.slow
def test_the_report_of_a_comparison_is_written_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    outside(installed, tmp_path, "-m", "dplit.compare", "compare_adult", "--only", "Flat", "--smoke", "--jobs", "1")
    assert (tmp_path / "runs" / "compare_adult-smoke" / "report.html").is_file()


RIGHT = '''
"""A module of someone who uses dplit."""

import dplit
from dplit.clipping import ClippingPolicy, Flat

policy: ClippingPolicy = Flat(bound=1.0)
strategy = dplit.DPStrategy(policy, dplit.Target(3.0, 1e-5), physical_batch_size=64)
reveal_type(strategy.ledger.epsilon(1e-5).upper)
'''
WRONG = "import dplit\n\ndplit.Target(epsilon='three', delta=1e-5)\n"


@pytest.mark.slow
def test_type_checkers_find_types(installed: Path, tmp_path: Path) -> None:
    """Without py.typed everything would be Any, and the wrong module would pass."""
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    command = ["-m", "mypy", "--strict", "--python-executable", str(installed), "right.py", "wrong.py"]
    with pytest.raises(AssertionError) as checked:
        outside(Path(sys.executable), tmp_path, *command)
    said = str(checked.value)
    assert [line for line in said.splitlines() if line.startswith("right.py") and "error" in line] == []
    assert re.search(r'right.py:9: note: Revealed type is "(builtins.)?float"', said)
    assert re.search(r'wrong.py:3: error: .* incompatible type "str"; expected "float"', said)
