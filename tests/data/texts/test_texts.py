"""Texts as token ids: what a text becomes does not depend on its company, and nothing of it is lost but its end."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from dplit.data.texts import base, encoding
from dplit.data.texts.base import Records, TokenRows
from dplit.data.texts.encoding import Encoder, Template, plain
from dplit.errors import ConfigurationError
from dplit.sampling.loader import poisson_loader
from tests.data.own import bert, gpt, sayings, texts

TEMPLATE = "{text} It was {mask}."
MAKERS = {"bert": bert, "gpt": gpt}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request, folder):
    return AutoTokenizer.from_pretrained(MAKERS[request.param](folder))


def refusal(call, *arguments, **options):
    with pytest.raises(ConfigurationError) as refused:
        call(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


SAID = ["", "abc", "the cat", "a " * 40, "[MASK] and <|end|>", "ünïcode 🙂 \n x", "hello. it was the text!"]


def rows_of(ids, side="right", multiple_of=1, unit=None, pad=0):
    zeros = np.zeros(len(ids), np.int64)
    return TokenRows(ids, Records([""] * len(ids), zeros, zeros, unit), pad, side, multiple_of)


# Padding


def law_padding_changes_nothing_but_padding(side, multiple_of, chosen):
    ids = [[7], [1, 2, 3], [4, 5], [9, 9, 9, 9, 9]]
    rows = rows_of(ids, side, multiple_of, pad=0)
    batch = rows.collate(chosen)
    width = batch["input_ids"].shape[1]
    assert width % multiple_of == 0
    assert width < max(len(ids[i]) for i in chosen) + multiple_of
    for i, row, mask in zip(chosen, batch["input_ids"], batch["attention_mask"], strict=True):
        assert row[mask.bool()].tolist() == ids[i]
        assert row[~mask.bool()].eq(0).all()
        steps = mask.diff()
        assert (steps >= 0).all() if side == "left" else (steps <= 0).all()
        assert mask[-1 if side == "left" else 0] == 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple_of", [1, 4])
@pytest.mark.parametrize("chosen", [[0], [1, 2], [3, 0, 0], [0, 1, 2, 3]])
def test_padding_changes_nothing_but_padding(side, multiple_of, chosen):
    law_padding_changes_nothing_but_padding(side, multiple_of, chosen)


def test_mutant_the_mask_is_read_off_the_ids(monkeypatch):
    original = TokenRows.collate

    def collate(self, samples):
        batch = original(self, samples)
        return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}

    monkeypatch.setattr(TokenRows, "collate", collate)
    with pytest.raises(AssertionError):
        law_padding_changes_nothing_but_padding("right", 1, [0, 1])


def test_mutant_the_other_side(monkeypatch):
    original = TokenRows.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self.side = "right"

    monkeypatch.setattr(TokenRows, "__init__", init)
    with pytest.raises(AssertionError):
        law_padding_changes_nothing_but_padding("left", 1, [0, 1])


def test_a_draw_is_padded_little():
    rng = np.random.default_rng(0)
    rows = rows_of([[5] * n for n in rng.integers(1, 60, 512)])
    (draw,) = poisson_loader(DataLoader(rows, batch_size=512, shuffle=True, collate_fn=rows.collate), 32)
    sizes = [(part.batch["attention_mask"].numel(), int(part.batch["attention_mask"].sum())) for part in draw.parts]
    taken, used = map(sum, zip(*sizes, strict=True))
    assert used == int(rows.lengths.sum())
    assert taken < 1.1 * used


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=40).map(lambda own: np.array(own, np.int64)), st.integers(1, 12)
)
def test_evaluation_batches_are_of_like_length(lengths, size):
    order = base._of_like_length(lengths, size)
    assert sorted(order) == list(range(len(lengths)))
    batches = [lengths[order[i : i + size]] for i in range(0, len(order), size)]
    for one in batches:
        for other in batches:
            assert one is other or one.min() >= other.max() or other.min() >= one.max()
    assert np.array_equal(order, base._of_like_length(lengths, size))


def test_the_first_evaluation_batches_stand_for_all():
    lengths = np.arange(6400)
    order = base._of_like_length(lengths, 64)
    assert abs(lengths[order[: 20 * 64]].mean() - 3200) < 1200 < abs(np.sort(lengths)[: 20 * 64].mean() - 3200)


def test_no_samples_are_an_empty_batch():
    batch = rows_of([[1], [2, 3]], multiple_of=8, unit=np.arange(2)).collate([])
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        **{"input_ids": (0, 1), "attention_mask": (0, 1)},
        **{"y": (0,), "group": (0,), "unit": (0,)},
    }
    assert all(value.dtype == torch.int64 for value in batch.values())


# Token ids


def law_a_text_is_encoded_by_itself(tokenizer, template, most):
    encoder = Encoder(tokenizer, template, most)
    whole = encoder(plain(SAID, tokenizer))
    assert [encoder([said])[0] for said in plain(SAID, tokenizer)] == whole
    assert all(1 <= len(ids) <= most for ids in whole)


@pytest.mark.parametrize("template", ["{text}", TEMPLATE])
@pytest.mark.parametrize("most", [16, 500])
def test_a_text_is_encoded_by_itself(tokenizer, template, most):
    law_a_text_is_encoded_by_itself(tokenizer, template, most)


def test_mutant_padded_when_encoded(tokenizer, monkeypatch):
    original = Encoder._ids

    def padded(self, texts, most):
        ids = original(self, texts, most)
        return [row + [0] * (max(map(len, ids)) - len(row)) for row in ids]

    monkeypatch.setattr(Encoder, "_ids", padded)
    with pytest.raises(AssertionError):
        law_a_text_is_encoded_by_itself(tokenizer, "{text}", 500)


@pytest.mark.parametrize("said", SAID[1:])
def test_short_texts_are_what_the_tokenizer_says(tokenizer, said):
    (said,) = plain([said], tokenizer)
    assert Encoder(tokenizer, "{text}", 500)([said]) == [tokenizer(said)["input_ids"]]


def test_an_empty_text_stays_a_record(tokenizer):
    (ids,) = Encoder(tokenizer, "{text}", 16)([""])
    assert ids == (tokenizer("")["input_ids"] or [tokenizer.eos_token_id])
    assert rows_of([ids]).collate([0])["attention_mask"].sum() == len(ids)


# Truncation


def template_ids(tokenizer, template):
    """The ids behind the text, by the tokenizer alone."""
    end = template.split("{text}")[1]
    if tokenizer.mask_token is None:
        end = end.split("{mask}")[0].rstrip()
    return tokenizer(end.replace("{mask}", tokenizer.mask_token or ""), add_special_tokens=False)["input_ids"]


def law_truncation_keeps_the_template(tokenizer, said, most):
    (said,) = plain([said], tokenizer)
    (ids,) = Encoder(tokenizer, TEMPLATE, most)([said])
    end = template_ids(tokenizer, TEMPLATE)
    special = tokenizer.num_special_tokens_to_add() // 2
    assert ids[len(ids) - special - len(end) : len(ids) - special] == end
    if tokenizer.mask_token_id is not None:
        assert ids.count(tokenizer.mask_token_id) == 1
    whole = tokenizer(said, add_special_tokens=False)["input_ids"]
    kept = ids[special : len(ids) - special - len(end)]
    assert kept == whole[: len(kept)]
    assert len(ids) == min(most, len(whole) + len(end) + 2 * special)


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("most", [15, 24, 500])
def test_truncation_keeps_the_template(tokenizer, said, most):
    law_truncation_keeps_the_template(tokenizer, said, most)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=60).map(str.strip))
def test_truncation_keeps_the_template_of_any_text(tokenizer, said):
    law_truncation_keeps_the_template(tokenizer, said, 20)


def test_mutant_the_whole_is_truncated(tokenizer, monkeypatch):
    monkeypatch.setattr(Encoder, "_cut", lambda self, ids, spans, begin, end, most: ids[:most])
    with pytest.raises(AssertionError):
        law_truncation_keeps_the_template(tokenizer, SAID[3], 24)


def test_mutant_special_tokens_of_a_person(folder, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(bert(folder))
    monkeypatch.setitem(law_truncation_keeps_the_template.__globals__, "plain", lambda texts, tokenizer: list(texts))
    with pytest.raises(AssertionError):
        law_truncation_keeps_the_template(tokenizer, "a [MASK] b", 24)


def test_a_tokenizer_that_cuts_on_the_left_keeps_the_end(folder):
    tokenizer = AutoTokenizer.from_pretrained(bert(folder), truncation_side="left")
    (ids,) = Encoder(tokenizer, TEMPLATE, 8)(["a b c d e"])
    assert tokenizer.convert_ids_to_tokens(ids)[:4] == ["[CLS]", "d", "e", "[UNK]"]


def test_a_text_shares_a_token_with_the_template_and_fits(folder):
    tokenizer = AutoTokenizer.from_pretrained(gpt(folder))
    (ids,) = Encoder(tokenizer, "{text}h it", 5)(["cat" * 9 + "t"])  # "th" is one token
    assert len(ids) == 5
    assert tokenizer.decode(ids).endswith("th it")


# The template


def test_a_causal_prompt_ends_where_the_word_comes(folder):
    tokenizer = AutoTokenizer.from_pretrained(gpt(folder))
    (ids,) = Encoder(tokenizer, TEMPLATE, 99)(["the cat"])
    assert tokenizer.decode(ids) == "the cat It was"


@pytest.mark.parametrize("wrong", ["", "no place", "{text} {text}", "{text} {mask} {mask}"])
def test_templates_without_places_are_refused(wrong, tmp_path):
    assert "must hold {text} once" in refusal(texts, tmp_path, template=wrong)


def test_a_causal_model_cannot_look_behind_the_word():
    assert "put {text} first" in refusal(Template, "It was {mask}: {text}", None)


def test_other_braces_are_left_alone():
    assert Template("{a} {text} {}").around("x")[0] == "{a} x {}"


def test_a_template_that_fills_everything_is_refused(tmp_path):
    assert "no room for a text" in refusal(texts(tmp_path, template=TEMPLATE, max_length=6).setup)


# Records and splits


def law_no_unit_is_in_two_splits(unit, fraction):
    unit = np.asarray(unit, np.int64)
    records = Records([str(i) for i in range(len(unit))], unit, unit, unit)
    kept, held_out = records.split(fraction)
    assert not set(kept.unit) & set(held_out.unit)
    assert sorted([*kept.text, *held_out.text], key=int) == records.text
    assert len(set(held_out.unit)) == min(max(round(len(set(unit)) * fraction), 1), len(set(unit)) - 1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-3, 9), min_size=1, max_size=40), st.sampled_from([0.1, 0.5]))
def test_no_unit_is_in_two_splits(unit, fraction):
    law_no_unit_is_in_two_splits(unit, fraction)


def test_mutant_split_by_row(monkeypatch):
    def by_row(self, fraction):
        held_out, kept = base.split(len(self), fraction)
        return self.part(kept), self.part(held_out)

    monkeypatch.setattr(Records, "split", by_row)
    with pytest.raises(AssertionError):
        law_no_unit_is_in_two_splits([0, 0, 0, 1, 1, 1, 2, 2], 0.5)


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


# Files and declarations


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


def batch_of(data):
    data.setup()
    return data.train.collate(range(len(data.train)))


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
        ({"train": 7}, "train is a int"),
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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_length": 0}, "max_length=0"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of=0"),
        ({"padding_side": "top"}, "padding_side='top'"),
        ({"classes": ["one"]}, "classes"),
        ({"test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_wrong_arguments_get_one_line(tmp_path, wrong, says):
    assert says in refusal(texts, tmp_path, **wrong)


def test_a_record_without_its_person_is_refused(tmp_path):
    rows = sayings()
    rows.loc[3, "user"] = ""
    assert "'user' says nothing in row 4" in refusal(texts(tmp_path, rows, unit="user").setup)


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


def test_the_tokenizers_own_limit_and_side_hold(tmp_path):
    limited = bert(tmp_path, model_max_length=8, padding_side="left")
    data = texts(tmp_path, tokenizer=limited)
    batch = batch_of(data)
    assert batch["input_ids"].shape[1] == 8
    assert batch["attention_mask"][:, -1].all()
    data = texts(tmp_path, tokenizer=limited, padding_side="right")
    assert batch_of(data)["attention_mask"][:, 0].all()


def test_a_slow_tokenizer_is_refused():
    assert "give a fast tokenizer" in refusal(Encoder, types.SimpleNamespace(is_fast=False), "{text}", 9)


def test_progress_is_told_when_it_takes_long(tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(encoding, "CHUNK", 2)
    monkeypatch.setattr(encoding, "PATIENCE", -1.0)
    Encoder(tokenizer, "{text}", 99)(["a", "b", "c"])
    assert capsys.readouterr().err.splitlines()[-1].startswith("dplit: 3 of 3 texts encoded")


def test_tables_with_other_columns_are_fine(tmp_path):
    rows = sayings().assign(extra=pd.Series(range(60)))
    assert "extra" not in batch_of(texts(tmp_path, train=rows))
