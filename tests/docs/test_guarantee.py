"""The page of promises: each test that it cites exists, and each promise that a test names is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.cite_tests import CITED, PAGE, corrected, defined_tests, wrong
from tests.docs.pages import ROOT

TEXT = PAGE.read_text(encoding="utf-8")
PROMISES = {
    int(number): text for number, text in re.findall(r"^### (\d+)\. (.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
}
NOT_MADE = {6, 17, 18, 20}
"""As the page says: hardened noise, audits, several devices."""


def test_every_cited_test_exists() -> None:
    assert wrong(TEXT, defined_tests(ROOT)) == [], "run python scripts/cite_tests.py --write"


def test_every_promise_has_its_tests() -> None:
    assert set(PROMISES) == {*range(1, 31)} - NOT_MADE
    assert f"({', '.join(map(str, sorted(NOT_MADE)))})" in " ".join(TEXT.split())
    for number, text in PROMISES.items():
        laws, _, mutants = text.partition("Mutants: ")
        cited = [match["name"] for match in CITED.finditer(laws)]
        broken = [match["name"] for match in CITED.finditer(mutants)]
        assert cited, f"promise {number} cites no test"
        assert not any("mutant" in name for name in cited)
        assert broken or "there is no mutant of the code" in laws, f"promise {number} cites no mutant"
        assert all("mutant" in name for name in broken)


def test_promises_that_tests_name_are_on_the_page() -> None:
    named: set[int] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for several in re.findall(r"[Pp]romises? (\d+(?:(?:, | and | to )\d+)*)", path.read_text(encoding="utf-8")):
            numbers = [int(number) for number in re.findall(r"\d+", several)]
            named |= set(range(numbers[0], numbers[1] + 1)) if " to " in several else set(numbers)
    assert len(named) > 5
    assert named <= set(PROMISES) | NOT_MADE


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tests" / "b").mkdir(parents=True)
    (tmp_path / "tests" / "b" / "test_b.py").write_text("def test_moved():\n    ...\n\n\ndef test_twice():\n    ...\n")
    (tmp_path / "tests" / "test_a.py").write_text("def test_kept():\n    ...\n\n\ndef test_twice():\n    ...\n")
    return tmp_path


def test_a_citation_that_does_not_hold_is_found(checkout: Path) -> None:
    page = "[`test_kept`](../tests/test_a.py) [`test_moved`](../tests/test_a.py) [`test_gone`](../tests/test_a.py)"
    assert wrong(page, defined_tests(checkout)) == [
        ("test_moved", "tests/test_a.py", ["tests/b/test_b.py"]),
        ("test_gone", "tests/test_a.py", []),
    ]


def test_citations_follow_tests_that_moved(checkout: Path) -> None:
    page = "[`test_moved`](../tests/test_a.py) [`test_twice`](../tests/test_a.py) [`test_gone`](../tests/c.py)"
    followed = "[`test_moved`](../tests/b/test_b.py) [`test_twice`](../tests/test_a.py) [`test_gone`](../tests/c.py)"
    assert corrected(page, defined_tests(checkout)) == followed


def test_a_name_in_several_files_goes_where_the_others_of_its_file_went(checkout: Path) -> None:
    page = "[`test_moved`](../tests/old.py) [`test_twice`](../tests/old.py) [`test_twice`](../tests/other.py)"
    followed = (
        "[`test_moved`](../tests/b/test_b.py) [`test_twice`](../tests/b/test_b.py) [`test_twice`](../tests/other.py)"
    )
    assert corrected(page, defined_tests(checkout)) == followed
