"""Texts with their identity terms swapped: what a copy says, and that a record and its copies are clipped as one."""

from __future__ import annotations

import inspect
import pickle
import re

import jsonargparse
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule

from dplit.data import bold, bug, redditbias
from dplit.data.texts import counterfactual, files
from dplit.data.texts.counterfactual import BUILT_IN, Counterfactuals, Swaps
from dplit.data.texts.encoding import Encoder
from dplit.data.texts.records import Records
from dplit.errors import ConfigurationError
from dplit.protocols import UnitSamples
from dplit.sampling.units import single_records
from tests.data.own import bert
from tests.data.own import texts as own_texts
from tests.data.swapped import SAID, SWAPS, data

PAIRS = {"he": "she", "man": "woman", "king": "queen", "good": "bad"}
WORDS = [*PAIRS, *PAIRS.values(), "the", "them", "mankind", "shekel", "x_he", "é", "9", "ſhe", "he\u0301"]
CASES = [str.lower, str.upper, str.capitalize]
said = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from(CASES), st.sampled_from([" ", ", ", "-", "'", "", "\n", "_"])),
    max_size=12,
).map(lambda parts: "".join(case(word) + gap for word, case, gap in parts))
anything = st.one_of(said, st.text(max_size=40))


# What a copy says


def once(text, given=PAIRS):
    """The one copy, or the text itself where it has none."""
    found = Swaps(given)(text)
    assert len(found) <= 1
    return found[0] if found else text


def law_twice_gives_the_text_back(text):
    assert once(once(text)) == text


@settings(max_examples=300, deadline=None, derandomize=True)
@given(anything)
def test_twice_gives_the_text_back(text):
    law_twice_gives_the_text_back(text)


ONE_TO_ONE = [(a, b) for a, b in BUILT_IN["gender"][0].items() if BUILT_IN["gender"][0][b] == a]


@pytest.mark.parametrize("case", CASES)
def test_twice_gives_every_pair_of_gender_back(case):
    assert len(ONE_TO_ONE) > 120
    for term, other in ONE_TO_ONE:
        assert once(case(term), "gender") == case(other)
        assert once(case(other), "gender") == case(term)


def expected(words, i):
    """What becomes of the i-th of a text's words and gaps."""
    both = {**PAIRS, **{other: term for term, other in PAIRS.items()}}
    alike = [case for case in CASES if case(words[i].lower()) == words[i]]
    inside = "\u0301" in words[max(i - 1, 0) : i] + words[i + 1 : i + 2]
    return alike[0](both[words[i].lower()]) if alike and not inside and words[i].lower() in both else words[i]


def law_only_whole_terms_move(text):
    words = re.findall(r"\w+|\W", text)
    assert once(text) == "".join(expected(words, i) for i in range(len(words)))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(said)
def test_only_whole_terms_move_and_keep_their_case(text):
    law_only_whole_terms_move(text)


def one_after_the_other(self, text):
    for old, new in self.tables[0].items():
        text = re.sub(rf"(?<!\w){old}(?!\w)", new, text)
    yield text


def in_lower_case(self, text):
    yield self.pattern.sub(lambda found: self.tables[0][found[0]].lower(), text)


def within_words(self, text):
    yield re.sub(self.pattern.pattern[7:-6], lambda found: self.tables[0][found[0]], text)


@pytest.mark.parametrize("mutant", [one_after_the_other, in_lower_case])
def test_mutants_that_do_not_come_back_are_caught(mutant, monkeypatch):
    monkeypatch.setattr(counterfactual._TermList, "copies", mutant)
    with pytest.raises(AssertionError):
        law_twice_gives_the_text_back("He and she")


def test_mutant_substrings_are_caught(monkeypatch):
    law_only_whole_terms_move("the man")
    monkeypatch.setattr(counterfactual._TermList, "copies", within_words)
    with pytest.raises(AssertionError):
        law_only_whole_terms_move("the man")


@pytest.mark.parametrize(
    ("given", "text", "copies"),
    [
        ("gender", "HE said: her son told him, Hers.", ["SHE said: his daughter told her, His."]),
        ("gender", "nothing of the kind, theme shell", []),
        ("gender", "", []),
        ({"he": "she"}, "He and she, she and HE; hé", ["She and he, he and SHE; hé"]),
        ({"his": "her", "him": "her", "hers": "his"}, "his her him hers", ["her his her his"]),
        ([["a b", "c"], ["a", "d"]], "A b, a B, A B, a", ["C, d B, C, d"]),
        ([["african-american", "white"]], "African-American WHITE", ["White AFRICAN-AMERICAN"]),
        ([["LGBTQ people", "others"]], "LGBTQ people, lgbtq people", ["others, others"]),
        ([["muslims", "jews", "hindus"]], "Muslims, jews", ["Jews, hindus", "Hindus, muslims"]),
        ([["muslims", "jews", "hindus"], ["gay", "straight"]], "gay jews", ["straight hindus", "gay muslims"]),
        (["gender", "religion"], "his church", ["her church", "his synagogue", "his mosque"]),
        ([{"he": "she"}, {"she": "it"}], "he she", ["she he", "he it"]),
        ("religion", "a Jew", ["a Muslim", "a Hindu", "a Buddhist"]),
        ("race", "black people", ["white people", "asian people", "hispanic people"]),
        ("orientation", "LGBTQ", ["STRAIGHT", "BISEXUAL"]),
        ([["लड़का", "लड़की"]], "लड़का लड़काें", ["लड़की लड़काें"]),
    ],
)
def test_copies(given, text, copies):
    assert Swaps(given)(text) == copies


@pytest.mark.parametrize("max_copies", [1, 2, 9])
def test_no_more_copies_than_asked_for(max_copies):
    assert len(Swaps(["gender", "religion"], max_copies)("her bible and her christian quran")) == min(max_copies, 6)


@pytest.mark.parametrize("name", BUILT_IN)
def test_ready_lists_hold_whole_terms_that_become_another(name):
    for turn in BUILT_IN[name]:
        for term, other in turn.items():
            assert term == term.lower() == " ".join(term.split())
            assert other in turn
            assert other != term


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("sex", "no list 'sex'; choose one of gender, religion, orientation, race"),
        (["muslims", "jews"], "no list 'muslims'"),
        ([], "names no terms"),
        ({}, "names no terms"),
        ("", "names no terms"),
        (["gender", []], "names no terms"),
        (7, "swaps=7 is not the name"),
        ([7], "is not the name"),
        ({"he": ""}, "empty term"),
        ([["he", "  "]], "empty term"),
        ({"he": None}, "None, a NoneType, for a term"),
        ({"yes": False}, "put it in quotes"),
        ({"he": "she", "He": "it"}, "'He' twice"),
        ([["he", "she"], ["they", "he"]], "'he' twice"),
        ([["he", "he"]], "'he' twice"),
        ([["he"]], "'he' alone in its family"),
        ({"he": "He"}, "itself, which swaps nothing"),
    ],
)
def test_wrong_lists_get_one_line_before_anything_is_read(tmp_path, wrong, says):
    with pytest.raises(ConfigurationError) as refused:
        own_texts(tmp_path, swaps=wrong)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_copies_are_no_number_of_copies(tmp_path):
    with pytest.raises(ConfigurationError, match="max_copies=0"):
        own_texts(tmp_path, swaps="gender", max_copies=0)


# Data modules


def unpadded(batch):
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def law_copies_are_encoded_as_they_would_be_alone(tmp_path):
    made, without = data(tmp_path, unit="user"), data(tmp_path, unit="user", swaps=None)
    alone = Encoder(made.tokenizer, "{text}", 12)
    n = len(without.train)
    assert len(made.train) == n
    assert torch.equal(made.train.group_ids(), without.train.group_ids())
    files = {str(alone(made.prepared([one], made.tokenizer))): one for one in SAID}
    for i in range(n):
        sample, record = made.train[i], without.train.collate([i])
        batch = made.train.collate([sample])
        first, *copies = unpadded(batch)
        assert [first] == unpadded(record)
        swapped = Swaps(SWAPS)(files[str([first])])
        assert copies == [alone(made.prepared([copy], made.tokenizer))[0] for copy in swapped]
        for key in ("y", "group", "unit"):
            assert batch[key].tolist() == record[key].tolist() * len(sample)


@pytest.mark.usefixtures("_short")
def test_copies_are_encoded_as_they_would_be_alone(tmp_path):
    law_copies_are_encoded_as_they_would_be_alone(tmp_path)


@pytest.fixture
def _short(monkeypatch):
    """Chunks shorter than the texts, so that none is encoded in the company of all."""
    monkeypatch.setattr("dplit.data.texts.encoding.CHUNK", 3)


def test_mutant_copies_of_the_next_record(tmp_path, monkeypatch):
    original = Counterfactuals.__init__

    def init(self, rows, counts):
        original(self, rows, [*counts[1:], counts[0]])

    monkeypatch.setattr(Counterfactuals, "__init__", init)
    with pytest.raises(AssertionError):
        law_copies_are_encoded_as_they_would_be_alone(tmp_path)


def test_mutant_copies_with_the_labels_of_the_first_records(tmp_path, monkeypatch):
    honest = Records.part

    def part(self, chosen):
        return honest(self, np.where(np.arange(len(chosen)) < len(self), chosen, 0))

    monkeypatch.setattr(Records, "part", part)
    with pytest.raises(AssertionError):
        law_copies_are_encoded_as_they_would_be_alone(tmp_path)


def test_validation_and_test_are_as_without(tmp_path):
    made, without = data(tmp_path), data(tmp_path, swaps=None)
    for name in ("val", "test"):
        found, expected = getattr(made, name), getattr(without, name)
        every = range(len(expected))
        assert type(found) is type(expected)
        assert all(torch.equal(found.collate(every)[k], v) for k, v in expected.collate(every).items())


def test_what_is_below_the_copies_is_records(tmp_path):
    made, without = data(tmp_path), data(tmp_path, swaps=None)
    records = single_records(made.train)
    assert len(records) == len(without.train)
    assert records.__getitems__([3, 0]) == [3, 0]
    assert isinstance(made.train[0], UnitSamples)
    assert made.train.collate([])["input_ids"].shape == (0, 1)


def test_workers_get_a_copy(tmp_path):
    made = data(tmp_path)
    again = pickle.loads(pickle.dumps(made.train))
    every = [made.train[i] for i in range(len(made.train))]
    assert [again[i] for i in range(len(again))] == every
    assert torch.equal(again.collate(every)["input_ids"], made.train.collate(every)["input_ids"])


def test_the_template_is_not_swapped(tmp_path):
    made = data(tmp_path, template="{text} It was good {mask}")
    end = made.tokenizer("It was good <mask>")["input_ids"]
    batch = made.train.collate([made.train[i] for i in range(len(made.train))])
    assert len(batch["y"]) > len(made.train)
    assert all(ids[-len(end) :] == end for ids in unpadded(batch))


def test_the_occupation_of_bug_stays_out_and_only_the_gender_moves(tmp_path, monkeypatch):
    said = {"sentence": "then he said his doctor saw him .", "job": "doctor", "gender": "male"}
    sentences = pd.DataFrame(said, range(20))
    monkeypatch.setattr(bug.Bug, "records", lambda self: (bug.records(sentences), None))
    made = bug.Bug(bert(tmp_path), swaps="gender")
    made.setup()
    batch = made.train.collate([made.train[0]])
    expected = ["then he said his [MASK] saw him .", "then she said her [MASK] saw her ."]
    assert unpadded(batch) == made.tokenizer(expected)["input_ids"]
    assert batch["y"].tolist() == [bug.JOBS.index("doctor")] * 2
    assert batch["group"].tolist() == [bug.Bug.groups.index("male")] * 2


MODULES = [bug.Bug, redditbias.RedditBias, bold.Bold, files.Texts]


@pytest.mark.parametrize("cls", MODULES)
def test_swaps_are_open_to_a_recipe_in_every_text_module(cls):
    assert issubclass(cls, LightningDataModule)
    assert not inspect.isabstract(cls)
    for swaps in ("gender", ["gender", {"he": "she"}, ["a", "b"]], {"he": "she"}, None):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, "data", skip={"train", "groups"})
        read = parser.parse_string(yaml.safe_dump({"data": {"swaps": swaps, "max_copies": 2}})).data
        assert (read.swaps, read.max_copies) == (swaps, 2)
