"""COMPAS: the rows that are kept. The slow tests download them."""

from __future__ import annotations

import pandas as pd
import pytest

from dplit.data import compas
from dplit.data.compas import Compas
from tests.data.real import rates

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
    kept = Compas().parse(rows.to_csv(index=False).encode())
    assert kept["age"].tolist() == [30, 30]
    assert Compas().labels(kept).tolist() == [1, 0]
    assert not set(kept.columns) & {"name", "dob", "decile_score", "is_recid", "score_text", "days_b_screening_arrest"}


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
