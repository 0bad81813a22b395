import numpy as np
import pandas as pd
import pytest
import torch

from dplit.data.columns import read_columns
from dplit.data.tables import files
from dplit.data.tables.files import Range, Table
from dplit.errors import ConfigurationError
from tests.data.own import DECLARED, people, table


def set_up(data):
    data.setup()
    return data


def refusal(make):
    with pytest.raises(ConfigurationError) as refused:
        make()
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What becomes of a table


def test_a_table_is_encoded_as_declared(tmp_path):
    rows = pd.DataFrame(
        {
            "age": [17, 53.5, 200],
            "gain": [0, 9_999, None],
            "work": ["a", "c", None],
            "sex": ["M", "F", "M"],
            "over": [1, 0, 1],
        }
    )
    rows.to_csv(tmp_path / "test.csv", index=False)
    data = set_up(table(tmp_path, test=str(tmp_path / "test.csv")))
    assert data.feature_names == (
        *("age", "age in [20, 40)", "age in [40, inf)", "gain"),
        *("work=a", "work=b", "work=other"),
    )
    expected = [[-1, 0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1], [1, 0, 1, 0, 0, 0, 1]]
    torch.testing.assert_close(data.test.x, torch.tensor(expected, dtype=torch.float32))
    assert data.test.y.tolist() == [1, 0, 1]
    assert data.test.group_ids().tolist() == [1, 0, 1]


def test_several_group_columns_are_crossed(tmp_path):
    data = set_up(table(tmp_path, group={"sex": ["M", "F"], "skin": ["light", "dark"]}))
    assert data.groups == ("M light", "M dark", "F light", "F dark")
    rows = people()
    counts = torch.cat([part.group_ids() for part in (data.train, data.val, data.test)]).bincount(minlength=4)
    assert counts[3] == ((rows.sex == "F") & (rows.skin == "dark")).sum()


def test_parquet_and_csv_say_the_same(tmp_path):
    people().to_parquet(tmp_path / "people.parquet")
    one, other = set_up(table(tmp_path)), set_up(table(tmp_path, train=str(tmp_path / "people.parquet")))
    for name in ("train", "val", "test"):
        for part in ("x", "y", "group"):
            assert torch.equal(getattr(getattr(one, name), part), getattr(getattr(other, name), part))


def test_several_files_are_read_one_after_another(tmp_path):
    for i in range(2):
        people(seed=i).to_csv(tmp_path / f"{i}.csv", index=False)
    data = set_up(table(tmp_path, train=[str(tmp_path / f"{i}.csv") for i in range(2)]))
    assert len(data.train) + len(data.val) + len(data.test) == 400


def test_a_file_to_test_on_leaves_the_other_whole(tmp_path):
    people(30, seed=1).to_csv(tmp_path / "test.csv", index=False)
    data = set_up(table(tmp_path, test=str(tmp_path / "test.csv")))
    assert [len(part) for part in (data.train, data.val, data.test)] == [180, 20, 30]


@pytest.mark.parametrize("values", [[True, False], [0, 1], ["no", "yes"]])
def test_classes_may_be_numbers_and_truth_values(tmp_path, values):
    rows = people().assign(over=[values[i % 2] for i in range(200)])
    rows.to_parquet(tmp_path / "people.parquet")
    data = set_up(table(tmp_path, rows, classes=values, train=str(tmp_path / "people.parquet")))
    assert data.num_classes == 2
    assert 0 < data.train.y.double().mean() < 1


def law_a_declared_encoding_does_not_move_with_the_rows(folder):
    """The same test rows, beside other training rows."""
    people(30, seed=1).to_csv(folder / "test.csv", index=False)
    whole = set_up(table(folder, test=str(folder / "test.csv")))
    others = people(seed=2).assign(age=20, work="c")
    moved = set_up(table(folder, others, test=str(folder / "test.csv")))
    assert torch.equal(whole.test.x, moved.test.x)
    assert whole.feature_names == moved.feature_names


def test_a_declared_encoding_does_not_move_with_the_rows(tmp_path):
    law_a_declared_encoding_does_not_move_with_the_rows(tmp_path)


def test_mutant_limits_taken_from_the_rows(tmp_path, monkeypatch):
    def fitted(self):
        train = declared(self)[0]
        train["age"] = (train["age"] - train["age"].mean()) / 10
        test = declared(self)[1]
        return train, test.assign(age=test["age"] - train["age"].max())

    declared = Table.tables
    monkeypatch.setattr(Table, "tables", fitted)
    with pytest.raises(AssertionError):
        law_a_declared_encoding_does_not_move_with_the_rows(tmp_path)


# Refusals


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.drop(columns=["work", "sex"]), "has no column 'work', 'sex'; it has age, gain, skin, over"),
        (lambda rows: rows.assign(sex="X"), "column 'sex' holds 'X' in row 1, outside the declared F, M"),
        (lambda rows: rows.assign(over=[2, *[0] * 199]), "column 'over' holds '2' in row 1, outside the declared 0, 1"),
        (lambda rows: rows.assign(over=[*["0"] * 199, None]), "in row 200, outside"),
        (lambda rows: rows.assign(age=[*[30] * 9, "old", *[30] * 190]), "column 'age' holds 'old' in row 10, which is"),
        (lambda rows: rows.head(0), "holds no rows"),
    ],
)
def test_a_file_that_says_what_was_not_declared_gets_one_line(tmp_path, change, says):
    assert says in refusal(table(tmp_path, change(people())).setup)


def test_a_test_file_is_held_to_the_same(tmp_path):
    people(30).assign(sex="X").to_csv(tmp_path / "test.csv", index=False)
    assert "test: column 'sex' holds 'X'" in refusal(table(tmp_path, test=str(tmp_path / "test.csv")).setup)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00binary", b'"unclosed\n1,2\n', b"PAR1nonsense"])
@pytest.mark.parametrize("name", ["own.csv", "own.parquet"])
def test_a_file_that_cannot_be_read_gets_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert f"train={tmp_path / name}" in refusal(lambda: read_columns(str(tmp_path / name), ["age"], "train"))


def test_a_file_that_is_not_there_gets_one_line(tmp_path):
    assert "cannot be read" in refusal(lambda: read_columns(tmp_path / "none.csv", ["age"], "train"))
    assert "cannot be read" in refusal(lambda: read_columns(tmp_path, ["age"], "train"))
    assert "holds no rows" in refusal(lambda: read_columns([], ["age"], "train"))


def test_parquet_without_its_library_gets_one_line(tmp_path, monkeypatch):
    people().to_parquet(tmp_path / "own.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert "install dplit[parquet]" in refusal(lambda: read_columns(tmp_path / "own.parquet", ["age"], "train"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"classes": [1]}, "classes="),
        ({"classes": [1, "1"]}, "classes="),
        ({"group": {}}, "group={}"),
        ({"group": {"sex": []}}, "group.sex="),
        ({"group": {"age": [1]}}, "column 'age' gives groups and is declared under numbers"),
        ({"numbers": {}, "categories": {}}, "no feature"),
        ({"numbers": {"work": Range(0, 1)}}, "column 'work' is declared under numbers and categories"),
        ({"categories": {"over": [0, 1]}}, "label='over' is also a feature"),
        ({"categories": {"work": ["a", "a"]}}, "categories.work="),
        ({"numbers": {"age": Range(5, 5)}}, "numbers.age: low=5 must be below high=5"),
        ({"numbers": {"age": Range(0, float("inf"))}}, "both finite"),
        ({"numbers": {"age": Range(0, 9, (3, 2))}}, "must be ascending"),
        ({"numbers": {"age": Range(0, 9, scale="square")}}, "use one of linear, log"),
        ({"test_fraction": 0.0}, "test_fraction=0.0"),
    ],
)
def test_wrong_declarations_get_one_line(tmp_path, wrong, says):
    assert says in refusal(lambda: table(tmp_path, **wrong))


def test_every_scale_is_a_function_of_its_limits():
    for scale in files.SCALES.values():
        low, high = scale(np.array([3.0, 11.0]), 3.0, 11.0)
        assert (low, high) in ((-1, 1), (0, 1))
    assert DECLARED["numbers"]["gain"].scale == "log"
