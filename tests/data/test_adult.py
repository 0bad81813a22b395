import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from dplit.data import adult
from dplit.data.adult import GROUPS, Adult, encode, group_of, labels, rows_of
from dplit.data.base import Rows, split
from dplit.errors import ConfigurationError
from dplit.groups import group_ids

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data():
    data = Adult()
    data.setup()
    return data


def every_batch(loader):
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


# What the files hold


@pytest.mark.parametrize(("name", "rows"), [("adult.data", 32_561), ("adult.test", 16_281)])
def test_every_row_is_read(name, rows):
    assert len(rows_of(name)) == rows
    assert list(rows_of(name).columns) == list(adult.COLUMNS)


@pytest.mark.parametrize(("sex", "rows", "rate"), [(0, 10_771, 0.1095), (1, 21_790, 0.3057)])
def test_counts_and_rates_of_the_codebook(sex, rows, rate):
    chosen = group_of(rows_of("adult.data"), "sex") == sex
    assert chosen.sum() == rows
    assert round(labels(rows_of("adult.data"))[chosen].mean(), 4) == rate


def test_labels_of_both_files_have_the_same_meaning():
    assert labels(rows_of("adult.data")).sum() == 7_841
    assert labels(rows_of("adult.test")).sum() == 3_846


@pytest.mark.parametrize("group", GROUPS)
def test_group_ids_name_the_words_in_the_file(group):
    rows = rows_of("adult.test")
    named = np.array(GROUPS[group])[group_of(rows, group)]
    words = {"sex": rows["sex"], "race": rows["race"], "sex_race": rows["sex"] + " " + rows["race"]}[group]
    assert (named == words.to_numpy()).all()
    assert set(named) == set(GROUPS[group])


def test_a_group_nobody_declared_is_refused():
    rows = rows_of("adult.test").head(2).assign(sex=["Female", "Unheard"])
    with pytest.raises(ConfigurationError, match="outside the declared Female, Male") as refusal:
        group_of(rows, "sex")
    assert "\n" not in str(refusal.value)


# The encoding


def law_each_row_is_encoded_by_itself(rows):
    whole = adult.encode(rows)
    some = np.random.default_rng(0).choice(len(rows), 50, replace=False)
    assert np.array_equal(adult.encode(rows.iloc[some]), whole[some])
    changed = rows.copy()
    changed.loc[changed.index[7], ["age", "capital-gain", "native-country"]] = [90, 99_999, "Unheard"]
    assert np.array_equal(np.delete(adult.encode(changed), 7, axis=0), np.delete(whole, 7, axis=0))


def test_each_row_is_encoded_by_itself():
    law_each_row_is_encoded_by_itself(rows_of("adult.data").head(2000))


def test_mutant_standardised_on_the_rows(monkeypatch):
    fitted = encode

    def standardised(rows):
        x = fitted(rows)
        return x - x.mean(0)

    monkeypatch.setattr(adult, "encode", standardised)
    with pytest.raises(AssertionError):
        law_each_row_is_encoded_by_itself(rows_of("adult.data").head(2000))


def test_mutant_categories_taken_from_the_rows(monkeypatch):
    def fitted(rows):
        return np.column_stack([pd.factorize(rows[name])[0] for name in adult.COLUMNS])

    monkeypatch.setattr(adult, "encode", fitted)
    with pytest.raises(AssertionError):
        law_each_row_is_encoded_by_itself(rows_of("adult.data").head(2000))


def test_features_stay_in_their_declared_range_and_are_named_once():
    x = encode(rows_of("adult.data"))
    assert x.dtype == np.float32
    assert x.shape[1] == Adult.num_features == len(set(Adult.feature_names))
    assert np.abs(x).max() <= 1


def feature(row, name):
    return encode(row)[0, Adult.feature_names.index(name)]


@pytest.fixture
def row():
    return rows_of("adult.data").head(1).copy()


def test_numbers_out_of_range_are_clipped(row):
    for column, far, scaled in [("age", 1000, 1), ("age", -5, -1), ("capital-gain", 10**7, 1), ("capital-loss", -3, 0)]:
        assert feature(row.assign(**{column: far}), column) == scaled


def test_unknown_words_go_to_other_and_question_marks_to_missing(row):
    assert feature(row.assign(occupation="Astronaut"), "occupation=other") == 1
    assert feature(row.assign(occupation="missing"), "occupation=missing") == 1
    assert feature(row.assign(**{"native-country": "Peru"}), "native-country=other") == 1
    assert not (rows_of("adult.data") == "?").to_numpy().any()
    assert (rows_of("adult.data")["occupation"] == "missing").sum() == 1843


def test_a_category_has_exactly_one_column_set():
    x = encode(rows_of("adult.data"))
    for column in ("workclass", "education", "occupation", "relationship", "race", "sex", "native-country"):
        columns = [i for i, name in enumerate(Adult.feature_names) if name.startswith(f"{column}=")]
        assert (x[:, columns].sum(1) == 1).all()


def test_bins_hold_the_numbers_between_their_edges(row):
    for age, name in [(20, "age in [20, 25)"), (24, "age in [20, 25)"), (90, "age in [70, inf)")]:
        assert feature(row.assign(age=age), name) == 1
    young = encode(row.assign(age=19))[0]
    assert not any(young[i] for i, name in enumerate(Adult.feature_names) if name.startswith("age in"))


# The split


def test_the_split_is_a_partition_that_repeats(data):
    held_out, kept = split(1000, 0.1)
    assert len(held_out) == 100
    assert sorted([*held_out, *kept]) == list(range(1000))
    assert np.array_equal(split(1000, 0.1)[0], held_out)
    assert len(data.train) + len(data.val) == 32_561
    assert len(data.test) == 16_281


def test_the_split_never_moves():
    assert split(32_561, 0.1)[0][:5].tolist() == [3, 9, 18, 25, 26]


def test_the_split_does_not_look_at_the_rows(data, monkeypatch):
    rows = rows_of("adult.data")
    monkeypatch.setattr(adult, "rows_of", lambda name: rows.assign(age=17) if name == "adult.data" else rows_of(name))
    other = Adult()
    other.setup()
    assert torch.equal(other.train.group, data.train.group)
    assert torch.equal(other.val.y, data.val.y)


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_neither_side_of_the_split_is_empty(fraction):
    held_out, kept = split(100, fraction)
    assert len(held_out) >= 1
    assert len(kept) >= 1


# Batches


def test_a_loader_yields_every_row_once(data):
    batch = every_batch(data.val_dataloader())
    assert torch.equal(batch["x"], data.val.x)
    assert torch.equal(batch["y"], data.val.y)
    shuffled = every_batch(data.train_dataloader())
    assert len(shuffled["y"]) == 29_305
    assert not torch.equal(shuffled["y"], data.train.y)
    torch.testing.assert_close(shuffled["x"].double().sum(0), data.train.x.double().sum(0))


def test_batches_have_the_declared_types_and_shapes(data):
    batch = next(iter(data.train_dataloader()))
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "x": (torch.float32, (512, Adult.num_features)),
        "y": (torch.int64, (512,)),
        "group": (torch.int64, (512,)),
    }
    assert data.group_key in batch


@pytest.mark.parametrize("chosen", [[5], [5, 5], [9, 0, 3], []])
def test_sublists_of_samples_collate_to_their_rows(data, chosen):
    samples = [data.train[i] for i in chosen]
    batch = data.train_dataloader().collate_fn(samples)
    assert torch.equal(batch["x"], data.train.x[chosen])
    assert torch.equal(batch["y"], data.train.y[chosen])
    assert torch.equal(batch["group"], data.train.group[chosen])


def test_a_batch_is_looked_up_at_once(data, monkeypatch):
    monkeypatch.setattr(Rows, "__getitem__", lambda self, index: pytest.fail("one call per example"))
    draws = [[3, 1, 4], list(range(512))]
    loader = DataLoader(data.train, batch_sampler=draws, collate_fn=data.train.collate)
    assert [len(batch["y"]) for batch in loader] == [3, 512]


def test_the_group_entry_reads_as_declared_ids():
    data = Adult(group="sex_race", batch_size=2000)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(group_ids(batch, data.group_key, data.groups), batch["group"])


def test_a_sample_outside_the_rows_is_an_index_error(data):
    with pytest.raises(IndexError):
        data.val[len(data.val)]


def test_a_second_setup_keeps_the_rows(data):
    before = data.train
    data.setup("test")
    assert data.train is before


# Refusals


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"group": "age"}, "choose one of sex, race, sex_race"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1"),
        ({"validation_fraction": 0.0}, r"choose one in \(0, 1\)"),
        ({"validation_fraction": 1.0}, r"choose one in \(0, 1\)"),
        ({"validation_fraction": float("nan")}, r"choose one in \(0, 1\)"),
        ({"num_workers": -1}, "num_workers=-1"),
    ],
)
def test_wrong_arguments_get_one_line(wrong, says):
    with pytest.raises(ConfigurationError, match=says) as refusal:
        Adult(**wrong)
    assert "\n" not in str(refusal.value)


def test_loaders_before_setup_are_refused():
    with pytest.raises(ConfigurationError, match="setup"):
        Adult().train_dataloader()


# The bundled files


def build_script():
    spec = importlib.util.spec_from_file_location("build_adult", ROOT / "scripts" / "build_adult.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_build_script_reproduces_the_bundled_files(tmp_path):
    script = build_script()
    try:
        built = script.build(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{script.PACKAGE} could not be downloaded: {error}")
    for path in built:
        assert path.read_bytes() == (script.BUNDLED / path.name).read_bytes()


def test_the_build_script_does_not_overwrite(capsys):
    with pytest.raises(SystemExit):
        build_script().main([])
    assert "--force" in capsys.readouterr().err


def test_the_licence_is_beside_the_data():
    text = (ROOT / "dplit" / "data" / "files" / "ADULT-LICENCE.txt").read_text()
    for part in ("Becker", "Kohavi", "10.24432/C5XW20", "CC BY 4.0", "Changes"):
        assert part in text
