"""Texts as token ids: what a text becomes does not depend on its company, and nothing of it is lost but its end."""

from __future__ import annotations

import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from dplit.data.texts import encoding
from dplit.data.texts.encoding import Encoder, Template, without_special_tokens
from tests.data.own import bert, gpt, texts
from tests.data.texts.helpers import refusal
from tests.data.texts.test_token_rows import rows_of

TEMPLATE = "{text} It was {mask}."


MAKERS = {"bert": bert, "gpt": gpt}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request, folder):
    return AutoTokenizer.from_pretrained(MAKERS[request.param](folder))


SAID = ["", "abc", "the cat", "a " * 40, "[MASK] and <|end|>", "ünïcode 🙂 \n x", "hello. it was the text!"]


def law_a_text_is_encoded_by_itself(tokenizer, template, most):
    encoder = Encoder(tokenizer, template, most)
    whole = encoder(without_special_tokens(SAID, tokenizer))
    assert [encoder([said])[0] for said in without_special_tokens(SAID, tokenizer)] == whole
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
    (said,) = without_special_tokens([said], tokenizer)
    assert Encoder(tokenizer, "{text}", 500)([said]) == [tokenizer(said)["input_ids"]]


def test_an_empty_text_stays_a_record(tokenizer):
    (ids,) = Encoder(tokenizer, "{text}", 16)([""])
    assert ids == (tokenizer("")["input_ids"] or [tokenizer.eos_token_id])
    assert rows_of([ids]).collate([0])["attention_mask"].sum() == len(ids)


def template_ids(tokenizer, template):
    """The ids behind the text, by the tokenizer alone."""
    end = template.split("{text}")[1]
    if tokenizer.mask_token is None:
        end = end.split("{mask}")[0].rstrip()
    return tokenizer(end.replace("{mask}", tokenizer.mask_token or ""), add_special_tokens=False)["input_ids"]


def law_truncation_keeps_the_template(tokenizer, said, most):
    (said,) = without_special_tokens([said], tokenizer)
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
    monkeypatch.setattr(Encoder, "_truncated", lambda self, ids, spans, begin, end, most: ids[:most])
    with pytest.raises(AssertionError):
        law_truncation_keeps_the_template(tokenizer, SAID[3], 24)


def test_mutant_special_tokens_of_a_person(folder, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(bert(folder))
    monkeypatch.setitem(
        law_truncation_keeps_the_template.__globals__, "without_special_tokens", lambda texts, tokenizer: list(texts)
    )
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


def test_a_slow_tokenizer_is_refused():
    assert "give a fast tokenizer" in refusal(Encoder, types.SimpleNamespace(is_fast=False), "{text}", 9)


def test_progress_is_told_when_it_takes_long(tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(encoding, "CHUNK", 2)
    monkeypatch.setattr(encoding, "SECONDS_BETWEEN_MESSAGES", -1.0)
    Encoder(tokenizer, "{text}", 99)(["a", "b", "c"])
    assert capsys.readouterr().err.splitlines()[-1].startswith("dplit: 3 of 3 texts encoded")
