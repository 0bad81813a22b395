"""What the pages show runs: files are saved under their titles, and the commands of the page are executed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, blocks, name

COMPLETE = [page for page in PAGES if any(block.title for block in blocks(page)) and page.name != "CONTRIBUTING.md"]
"""Pages that promise complete files."""


def run_page(page: Path, folder: Path) -> None:
    """Save the files of a page and run its commands, in their order."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "bash":
            for line in block.code.splitlines():
                command = line.split("#")[0].split()
                assert command[0] == "python", f"{name(page)}: only Python commands are run, not {line!r}"
                ran = subprocess.run(
                    [sys.executable, *command[1:]],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert ran.returncode == 0, f"{line}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in COMPLETE if page.name != "tutorial_table.md"], ids=name)
def test_a_page_with_files_runs(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def test_a_page_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '```python title="train.py"\nraise SystemExit("no such argument")\n```\n\n```bash\npython train.py\n```\n'
    )
    with pytest.raises(AssertionError, match="no such argument"):
        run_page(page, tmp_path)


def test_the_tutorials_are_complete_pages() -> None:
    names = {page.name for page in COMPLETE}
    assert {"tutorial_table.md", "tutorial_lightning.md", "from_opacus.md", "from_huggingface.md"} <= names


@pytest.mark.slow
def test_the_table_tutorial_runs_and_leaves_what_it_says(tmp_path: Path) -> None:
    page = ROOT / "docs" / "tutorial_table.md"
    run_page(page, tmp_path)
    listed = re.findall(
        r"`([\w.]+\.(?:md|json|jsonl|csv|png|yaml))`", page.read_text().split("## 3.")[1].split("## 4.")[0]
    )
    assert len(listed) >= 7
    assert {file for file in listed if not (tmp_path / "runs" / "loans" / file).is_file()} == set()
    assert (tmp_path / "runs" / "compare_loans-smoke" / "report.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_on_a_page_can_be_read(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.code)
        elif block.language == "yaml":
            assert yaml.safe_load(block.code)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_of_dplit_on_a_page_exist(page: Path) -> None:
    for block in blocks(page):
        for node in ast.walk(ast.parse(block.code)) if block.language == "python" else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dplit":
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


# -- links ------------------------------------------------------------------------------------------------------------


def load(file: str) -> ModuleType:
    """Import a file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{file}", ROOT / "docs" / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS, DOCTESTS = load("hooks"), load("doctests")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path, caplog: pytest.LogCaptureFixture) -> None:
    HOOKS.rewritten(page.read_text(encoding="utf-8"), name(page), "https://x")
    assert not caplog.records, caplog.text


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("docs/guarantee.md", "../tests/test_step.py", "https://x/blob/main/tests/test_step.py"),
        ("docs/guarantee.md", "../tests", "https://x/tree/main/tests"),
        ("docs/guarantee.md", "../SECURITY.md#floating-point", "security.md#floating-point"),
        ("docs/guarantee.md", "data.md#text", "data.md#text"),
        ("docs/reference/grads.md", "../policies.md", "../policies.md"),
        ("docs/reference/grads.md", "../../CONTRIBUTING.md", "../contributing.md"),
        ("CONTRIBUTING.md", "docs/models.md", "models.md"),
        ("SECURITY.md", "CHANGELOG.md", "changelog.md"),
        ("docs/data.md", "https://a.b/c", "https://a.b/c"),
        ("docs/data.md", "#text", "#text"),
    ],
)
def test_links_are_written_for_the_site(source: str, link: str, expected: str) -> None:
    assert HOOKS.rewritten(f"see [it]({link}).", source, "https://x") == f"see [it]({expected})."


def test_a_link_to_nothing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    HOOKS.rewritten("[it](../gone.py)", "docs/data.md", "https://x")
    assert "docs/data.md links to gone.py, which does not exist" in caplog.text


def test_help_texts_are_printed_into_the_page(caplog: pytest.LogCaptureFixture) -> None:
    page = HOOKS.printed("before\n\n<!-- output: dplit.fit --help -->\n")
    assert "\n```text\nusage: " in page
    assert "adult_flat" in page
    assert not caplog.records
    HOOKS.printed("<!-- output: dplit.fit no_such_recipe -->")
    assert "python -m dplit.fit no_such_recipe ended with 2" in caplog.text


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    written = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert sorted(listed) == sorted([*written, *HOOKS.BORROWED])


def test_figures_in_tables_are_not_divided() -> None:
    row = "| Flat | 0.860 ± 0.001 | -0.07 ± 0.68 | 1.18 – 1.27 | ≤ 1.20 | a – b |"
    kept = HOOKS.kept_together(f"1 ± 2\n{row}\n")
    assert kept.replace("\u00a0", " ").replace("\u2060", "") == f"1 ± 2\n{row}\n"
    assert [cell.count(" ") for cell in kept.split("\n")[1].split("|")[1:-1]] == [2, 2, 2, 2, 2, 4]
    assert kept.startswith("1 ± 2\n")


DOCSTRING = """Return the sum.

>>> add([1], [2])
[[3], [3]]
>>> for x in y:
...     x

Args:
    x: a number.

        >>> x
        1
    y: another.

```python
>>> z
```
"""


def test_doctests_are_code_in_the_reference() -> None:
    fenced = DOCTESTS.fenced(DOCSTRING)
    assert "\n```pycon\n>>> add([1], [2])\n[[3], [3]]\n>>> for x in y:\n...     x\n```\n\nArgs:" in fenced
    assert "\n        ```pycon\n        >>> x\n        1\n        ```\n    y: another." in fenced
    assert fenced.endswith("\n```python\n>>> z\n```\n")
    assert DOCTESTS.fenced("No example.") == "No example."
