"""Tables in memory: which rows a split holds, and where the files of a downloaded table go."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dplit.data.base import split
from dplit.data.tables.base import train_and_test
from dplit.data.tables.download import PeopleTable
from dplit.data.tables.features import Number
from dplit.data.tables.groupings import groupings
from dplit.hub.download import Member, PinnedFiles


def test_rows_to_test_on_are_chosen_by_number():
    rows = pd.DataFrame({"x": np.arange(50)})
    train, test = train_and_test(rows, 0.3)
    held_out, kept = split(50, 0.3)
    assert (train["x"].tolist(), test["x"].tolist()) == (kept.tolist(), held_out.tolist())


def toy(*contents):
    """A table of people whose files hold `first,last` row numbers."""
    members = tuple(Member(f"in/{k}", "", 0) for k in range(len(contents)))

    class Toy(PeopleTable):
        features = (Number("x", 0, 100),)
        groupings = groupings(sex=("F", "M"), race=("A", "B"))
        licence = "free to use"
        files = PinnedFiles("Toy", "toy", members, ())

        def parse(self, content):
            numbers = np.arange(*map(int, content.split(b",")))
            people = {"sex": np.array(["F", "M"])[numbers % 2], "race": np.array(["A", "B"])[numbers // 2 % 2]}
            return pd.DataFrame({"x": numbers, "label": numbers % 2, **people})

    return Toy


@pytest.fixture
def read(monkeypatch):
    def of(*contents, **options):
        given = dict(zip(map(str, range(len(contents))), contents, strict=True))
        monkeypatch.setattr(PinnedFiles, "read", lambda self, name, root=None: given[name])
        data = toy(*contents)(**options)
        data.setup()
        return data

    return of


def numbers(examples):
    return ((examples.x[:, 0] + 1) * 50).round().int().tolist()


def test_the_second_file_is_the_one_to_test_on(read):
    data = read(b"0,40", b"40,50")
    assert numbers(data.test) == list(range(40, 50))
    assert sorted([*numbers(data.train), *numbers(data.val)]) == list(range(40))


def test_one_file_gives_a_fifth_to_test_on(read):
    data = read(b"0,50")
    parts = [numbers(examples) for examples in (data.train, data.val, data.test)]
    assert sorted(number for part in parts for number in part) == list(range(50))
    assert list(map(len, parts)) == [36, 4, 10]


@pytest.mark.parametrize("group", ["sex", "race", "sex_race"])
def test_examples_keep_label_and_group_of_their_row(read, group):
    data = read(b"0,40", b"40,50", group=group)
    for number, y, group_id in zip(numbers(data.train), data.train.y, data.train.group, strict=True):
        names = {"sex": "FM"[number % 2], "race": "AB"[number // 2 % 2]}
        assert y == number % 2
        assert data.groups[group_id] == " ".join(names[column] for column in group.split("_"))
