"""Own texts: every kind of source gives the same, and what was not declared is refused."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.own import gpt, sayings, texts
from tests.data.texts.helpers import batch_of, refusal


def test_a_split_does_not_look_at_what_the_rows_say(tmp_path):
    said, other = sayings(), sayings(seed=1)
    other["user"] = said["user"]
    found = []
    for rows in (said, other):
        rows["text"], rows["label"] = [str(i) for i in range(len(rows))], rows["label"]
        data = texts(tmp_path, rows, unit="user")
        data.setup()
        found.append([data.tokenizer.decode(row) for row in data.train.collate(range(len(data.train)))["input_ids"]])
    assert found[0] == found[1]


def test_labels_groups_and_units_are_the_rows_own(tmp_path):
    rows = sayings()
    rows["text"] = [" ".join(str(i)) for i in range(len(rows))]
    data = texts(tmp_path, rows, unit="user")
    data.setup()
    seen = 0
    for examples in (data.train, data.val, data.test):
        batch = examples.collate(range(len(examples)))
        for ids, y, group in zip(batch["input_ids"], batch["y"], batch["group"], strict=True):
            row = rows.iloc[int(data.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", ""))]
            assert (data.classes[y], data.groups[group]) == (row["label"], row["group"])
            seen += 1
    assert seen == len(rows)


def write(rows, path):
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    elif path.suffix == ".csv":
        rows.to_csv(path, index=False)
    else:
        rows.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return str(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "table", "object"])
def test_every_kind_of_source_gives_the_same(tmp_path, name):
    rows = sayings()
    rows["label"] = np.arange(len(rows)) % 2
    objects = {"table": rows, "object": types.SimpleNamespace(to_pandas=lambda: rows)}
    source = objects[name] if name in objects else write(rows, tmp_path / name)
    declared = {"classes": [0, 1], "unit": "user"}
    expected, found = batch_of(texts(tmp_path, rows, **declared)), batch_of(texts(tmp_path, train=source, **declared))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_name_is_asked_of_datasets(tmp_path, monkeypatch):
    rows, asked = sayings(), []

    def load_dataset(name, split):
        asked.append((name, split))
        return types.SimpleNamespace(to_pandas=lambda: rows)

    fake = types.SimpleNamespace(
        load_dataset=load_dataset,
        load_from_disk=lambda where: {"train": types.SimpleNamespace(to_pandas=lambda: rows)},
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    texts(tmp_path, train="org/name", test="org/name#test").setup()
    texts(tmp_path, train=str(tmp_path)).setup()
    assert asked == [("org/name", "train"), ("org/name", "test")]


def test_a_name_without_datasets_gets_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "install it" in refusal(texts(tmp_path, train="org/name").setup)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": "said"}, "has no column 'said'"),
        ({"label": "class"}, "has no column 'class'"),
        ({"unit": "person"}, "has no column 'person'"),
        ({"classes": ["no", "maybe"]}, "holds 'yes' in row"),
        ({"groups": ["I", "II"]}, "holds 'III' in row"),
        ({"tokenizer": "nobody/here"}, "AutoTokenizer cannot load 'nobody/here'"),
        ({"train": "absent.jsonl"}, "absent.jsonl cannot be read"),
        ({"train": 7}, "train is of type int"),
    ],
)
def test_what_does_not_fit_gets_one_line(tmp_path, changes, says):
    assert says in refusal(texts(tmp_path, **changes).setup)


@pytest.mark.parametrize("broken", ['{"text": 1}\nno', "", "{}"])
def test_broken_json_gets_one_line(tmp_path, broken):
    (tmp_path / "a.jsonl").write_text(broken)
    refusal(texts(tmp_path, train=str(tmp_path / "a.jsonl")).setup)


def test_json_lines_lacking_a_column_get_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "group": "I"}))
    assert "no column 'label'; it has text, group" in refusal(texts(tmp_path, train=str(tmp_path / "a.jsonl")).setup)


def test_a_record_without_its_person_is_refused(tmp_path):
    rows = sayings()
    rows.loc[3, "user"] = ""
    assert "'user' is empty in row 4" in refusal(texts(tmp_path, rows, unit="user").setup)


def test_a_person_of_both_files_is_refused(tmp_path):
    test = write(sayings().head(5), tmp_path / "test.csv")
    assert "are in train and in test" in refusal(texts(tmp_path, unit="user", test=test).setup)


def test_language_modelling_has_the_group_as_class(tmp_path):
    data = texts(tmp_path, sayings().drop(columns="label"), classes=None)
    batch = batch_of(data)
    assert data.classes == data.groups
    assert torch.equal(batch["y"], batch["group"])


def test_missing_texts_are_empty_texts(tmp_path):
    rows = sayings()
    rows["text"] = [None] * len(rows)
    path = write(rows, tmp_path / "a.jsonl")
    assert batch_of(texts(tmp_path, train=path))["attention_mask"].sum(1).eq(2).all()
    data = texts(tmp_path, train=path, tokenizer=gpt(tmp_path))
    batch = batch_of(data)
    assert batch["attention_mask"].shape[1] == 1
    assert batch["input_ids"].eq(data.tokenizer.eos_token_id).all()


def test_tables_with_other_columns_are_fine(tmp_path):
    rows = sayings().assign(extra=pd.Series(range(60)))
    assert "extra" not in batch_of(texts(tmp_path, train=rows))
