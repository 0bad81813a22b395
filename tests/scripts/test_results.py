"""The Markdown tables of docs/results.md: every contender has a line, and only what is between the marks is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from dplit.errors import DplitError
from scripts.results import replaced, table
from tests.compare.fabricated import comparison, fabricate


def test_every_contender_has_a_line_with_costs_and_epsilons(tmp_path: Path) -> None:
    head, rule, *lines = table(fabricate(tmp_path, comparison())).splitlines()
    assert head.count("|") == rule.count("|")
    assert all(line.count("|") == head.count("|") for line in lines)
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| 1", "Flat"],
        ["| 1", "Group"],
        ["| 3", "Flat"],
        ["| 3", "Group"],
        ["| none", "not private"],
    ]
    assert lines[0].endswith("| 10.00 ± 0.00 | 10.00 ± 0.00 | 0.00 ± 0.00 | 1 | 1 | 3 |")
    assert lines[1].endswith("| overall only | overall only | 3 |")
    assert lines[-1].endswith("| – | – | – | – | – | 3 |")


PAGE = "before\n<!-- table: a -->\nold\n<!-- end -->\nbetween\n<!-- table: b -->\nkept\n<!-- end -->\n"


def test_only_the_table_of_that_name_is_replaced() -> None:
    assert replaced(PAGE, "a", r"new \1") == PAGE.replace("old", r"new \1")
    with pytest.raises(DplitError, match="has no '<!-- table: c -->'"):
        replaced(PAGE, "c", "new")
