"""Law school: how its file is read. The slow tests download it."""

from __future__ import annotations

import io
import zipfile

import pandas as pd
import pytest

from dplit.data import law
from dplit.data.law import LawSchool
from tests.data.real import rates


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
    rows = LawSchool().parse(law_file(written))
    assert list(zip(rows["race"], rows["sex"], strict=True)) == [(race, sex) for race, sex, _ in written]
    assert LawSchool().labels(rows).tolist() == [1, 0, 1]
    assert not any("PF" in name or "passed" in name for name in LawSchool.feature_names)
    names = LawSchool(group="sex_race").groups
    ids = LawSchool(group="sex_race").encoded(rows).group_ids()
    assert [names[i] for i in ids] == ["Sex_1 White", "Sex_2 Black", "Sex_2 Puertorican"]


@pytest.mark.slow
def test_law_holds_the_published_rows_and_rates():
    data = LawSchool()
    data.setup()
    assert len(data.train) + len(data.val) + len(data.test) == law.ROWS
    found = rates(data.groups, data.train, data.val, data.test)
    assert found["White"] == (18_285, 0.9203)
    assert found["Black"] == (1_282, 0.6178)
    assert sum(rows for rows, _ in found.values()) == law.ROWS
