"""BOLD: groups, and articles as units. The slow test downloads it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dplit.data import bold
from dplit.data.bold import Bold
from dplit.errors import ConfigurationError
from tests.data.own import bert
from tests.data.real import counts, fetched

BOLD_FILES = [
    json.dumps({name: {"Ann": [f"about {name}"], name: ["one", "two"]} for name in names}).encode()
    for names in bold.GROUPS.values()
]


@pytest.mark.parametrize("group", ["domain", "all", *bold.DOMAINS])
def test_bold_groups_and_articles(group, monkeypatch):
    monkeypatch.setattr(bold, "ROWS", 3 * 43)
    data = Bold(group)
    found = data.parse(BOLD_FILES)
    assert np.array_equal(found.y, found.group)
    assert set(found.group) == set(range(len(data.groups)))
    assert len(found) == 3 * (len(data.groups) if group != "domain" else 43)
    of_ann = [unit for said, unit in zip(found.text, found.unit, strict=True) if said.startswith("about")]
    assert len(set(of_ann)) == 1
    assert len(set(found.unit)) == 1 + len(found) // 3


def test_bold_groups_are_declared():
    with pytest.raises(ConfigurationError, match="group='age' is not a group of Bold"):
        Bold("age")


@pytest.mark.slow
def test_bold_holds_the_rows_it_says_and_no_article_twice(tmp_path):
    data = fetched(Bold, bert(tmp_path), group="all")
    assert sum(n for n, _ in counts(data).values()) == 23_679
    units = [set(part.unit.tolist()) for part in (data.train, data.val, data.test)]
    assert not units[0] & units[1]
    assert not (units[0] | units[1]) & units[2]
    assert counts(fetched(Bold, bert(tmp_path)))["race"][0] == 7_657
