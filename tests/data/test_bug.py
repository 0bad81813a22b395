"""BUG: the occupation is not in the text. The slow test downloads it."""

from __future__ import annotations

import pandas as pd
import pytest
from transformers import AutoTokenizer

from dplit.data import bug
from dplit.data.bug import BLANK, JOBS, PLACE, Bug, masked
from tests.data.own import bert, gpt
from tests.data.real import counts, fetched


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
    assert data.prepared([said], data.tokenizer) == [f"The [MASK] saw her {BLANK} ."]
    data.template = "{text} It was {mask}."
    assert data.prepared([said], data.tokenizer) == [f"The {BLANK} saw her {BLANK} ."]
    data.template, data.tokenizer = None, AutoTokenizer.from_pretrained(gpt(tmp_path))
    assert data.prepared([said], data.tokenizer) == [f"The {BLANK} saw her {BLANK} ."]


@pytest.mark.slow
def test_bug_holds_the_rows_it_says(tmp_path):
    data = fetched(Bug, bert(tmp_path))
    assert {name: n for name, (n, _) in counts(data).items()} == {"female": 8_438, "male": 37_942 - 8_438}
    mask = data.tokenizer.mask_token_id
    for examples in (data.train, data.val, data.test):
        assert int((examples.flat == mask).sum()) == len(examples)
