"""A text mentions a term where the term stands in it as whole words, whatever the case."""

from __future__ import annotations

import re

import pytest
import torch

import dplit
from dplit.data.texts import terms
from dplit.data.texts.terms import declared_terms, mentions
from dplit.errors import ConfigurationError
from dplit.fairness import FairnessMonitor
from dplit.models.sequence_classifier import SequenceClassifier
from tests.data.own import sayings, texts
from tests.lightning import trainer
from tests.models import tiny

CASES = [
    ("Asian", "an asian film", True),
    ("asian", "ASIAN.", True),
    ("asian", "Caucasian", False),
    ("asian", "Asians", False),
    ("asian", "asian_american", False),
    ("asian", "asian-american", True),
    ("african american", "African\n  AMERICAN", True),
    ("african american", "african, american", False),
    ("c++", "I write C++ daily", True),
    ("c++", "c+++", True),
    ("über", "ÜBER alles", True),
    ("gay", "", False),
]
TOLD = sayings()
TOLD["text"] = [f"{text} {more}" for text, more in zip(TOLD["text"], 20 * ["the film", "The cat", "them"], strict=True)]


def law_a_term_is_found_as_whole_words():
    for term, said, expected in CASES:
        assert mentions([said], [term]).tolist() == [[expected]], (term, said)


def test_a_term_is_found_as_whole_words():
    law_a_term_is_found_as_whole_words()


def test_mutant_a_part_of_a_word(monkeypatch):
    monkeypatch.setattr(terms, "_whole_words", lambda term: re.compile(re.escape(term), re.IGNORECASE))
    with pytest.raises(AssertionError):
        law_a_term_is_found_as_whole_words()


def test_mentions_are_a_row_for_each_text_and_a_column_for_each_term():
    found = mentions(["old and gay", "gay", ""], ["gay", "old"])
    assert found.tolist() == [[True, True], [True, False], [False, False]]
    assert found.dtype == torch.bool
    assert mentions([], ["gay"]).shape == (0, 1)
    assert mentions(["gay"], []).shape == (1, 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["gay", " Gay"], "distinct"),
        (["African American", "african  american"], "distinct"),
        ([""], "non-empty"),
        ("gay", "list"),
    ],
)
def test_terms_are_distinct_words(given, says):
    with pytest.raises(ConfigurationError, match=says) as refused:
        declared_terms(given)
    assert "identity_terms=" in str(refused.value)
    assert "\n" not in str(refused.value)


def law_a_batch_says_what_its_texts_mention(folder):
    data = texts(folder, identity_terms=["the", "cat"], rows=TOLD)
    data.setup()
    assert data.identity_terms == ("the", "cat")
    plain = texts(folder, TOLD)
    plain.setup()
    for name in ("train", "val", "test"):
        rows, others = getattr(data, name), getattr(plain, name)
        chosen = list(range(len(rows)))[::-2]
        batch, without = rows.collate(chosen), others.collate(chosen)
        assert batch.keys() - without.keys() == {"mentions"}
        assert all(torch.equal(batch[key], without[key]) for key in without)
        assert batch["mentions"].tolist() == rows.mentions[chosen].tolist()
        assert rows.collate([]).pop("mentions").shape == (0, 2)
    said = list(TOLD["text"])
    expected = [sum(bool(re.search(rf"\b{term}\b", str(one), re.I)) for one in said) for term in ("the", "cat")]
    assert min(expected) > 0
    assert sum(part.mentions.sum(0) for part in (data.train, data.val, data.test)).tolist() == expected


def test_a_batch_says_what_its_texts_mention(tmp_path):
    law_a_batch_says_what_its_texts_mention(tmp_path)


@pytest.mark.parametrize("grads", ["tape", "loop"])
def test_private_steps_carry_mentions_along(tmp_path, monkeypatch, grads):
    monkeypatch.chdir(tmp_path)
    data = texts(tmp_path, TOLD, identity_terms=["the", "cat"], batch_size=16, tokenizer=tiny.folder("bert"))
    strategy = dplit.DPStrategy(noise=0.5, physical_batch_size=8, noise_seed=1, grads=grads)
    run = trainer(strategy, callbacks=[FairnessMonitor(table=False, picture=False)])
    run.fit(SequenceClassifier(tiny.folder("bert"), 2, save_to=None), datamodule=data)
    assert strategy.ledger.steps == run.global_step > 1
    assert "fairness/false_positive_equality_difference" in run.callback_metrics
