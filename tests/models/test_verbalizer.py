"""The single token of each word."""

from __future__ import annotations

import pytest

from dplit.errors import ConfigurationError
from dplit.models import verbalizer
from tests.models.tiny import FAMILIES, tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_is_the_token_it_is_after_a_space(family):
    known = tokenizer(family)
    inside = known("It was good and", add_special_tokens=False)["input_ids"]
    assert verbalizer.token_ids(known, ["good", "and"]) == inside[2:]


def test_a_word_without_a_space_before_it_is_another_token():
    known = tokenizer("roberta")
    (glued,) = verbalizer.word_tokens(known, "(", space=False)[-1:]
    assert known.convert_ids_to_tokens(glued) == "("
    assert verbalizer.token_ids(known, ["good"]) != verbalizer.word_tokens(known, "good", space=False)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_word_that_is_no_token_gets_one_line_with_near_ones(family):
    with pytest.raises(ConfigurationError, match="near ones: good") as refusal:
        verbalizer.token_ids(tokenizer(family), ["goodq", "bad"])
    assert "\n" not in str(refusal.value)


def test_one_word_for_two_classes_is_refused():
    with pytest.raises(ConfigurationError, match="one token"):
        verbalizer.token_ids(tokenizer("bert"), ["good", "bad", "good"])
