"""Census-Income: what is read from its files. The slow tests download them."""

from __future__ import annotations

import pytest

from dplit.data import census
from dplit.data.census import CensusIncome
from dplit.data.tables.features import Categories
from tests.data.real import rates


def census_line(**changes):
    words = dict.fromkeys(census.COLUMNS, "Not in universe")
    numbers = {feature.column: "0" for feature in census.FEATURES if not isinstance(feature, Categories)}
    plain = {"race": "White", "sex": "Female", "instance weight": "1.5", "year": "94", "income": "- 50000."}
    return ", ".join({**words, **numbers, **plain, **changes}.values())


def test_census_lines_are_read_without_the_survey_weight():
    richer = {"major occupation": "Handlers equip cleaners etc ", "income": "50000+.", "country": "?", "age": "61"}
    rows = CensusIncome().parse("\n".join([census_line(), census_line(**richer)]).encode())
    assert not set(rows.columns) & {"instance weight", "previous state"}
    assert CensusIncome().labels(rows).tolist() == [0, 1]
    examples = CensusIncome().encoded(rows)
    for name in ("major occupation=Handlers equip cleaners etc", "country=?", "age in [60, 65)"):
        assert examples.x[:, CensusIncome.feature_names.index(name)].tolist() == [0, 1]
    assert not any("weight" in name or "income" in name for name in CensusIncome.feature_names)


@pytest.fixture(scope="module")
def income():
    data = CensusIncome()
    data.setup()
    return data


@pytest.mark.slow
def test_census_holds_the_codebooks_rows_and_rates(income):
    assert len(income.train) + len(income.val) == census.TRAIN_ROWS
    assert len(income.test) == census.TEST_ROWS
    assert rates(income.groups, income.train, income.val) == {
        "Female": (103_984, 0.0256),
        "Male": (95_539, 0.1017),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [census.TRAIN, census.TEST])
def test_the_census_codebook_covers_the_files(name):
    rows = CensusIncome().parse(census.FILES.read(name))
    limits = {"age": (0, 90), "capital losses": (0, 5_000), "weeks worked": (0, 52), "employer size": (0, 6)}
    for feature in census.FEATURES:
        if isinstance(feature, Categories) and feature.values != census.HOME:
            assert set(rows[feature.column]) <= set(feature.values), feature.column
        elif not isinstance(feature, Categories):
            assert rows[feature.column].between(*limits.get(feature.column, (0, 99_999))).all(), feature.column
