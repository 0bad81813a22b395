"""What all text data sets share: the order of evaluation, and the tokenizer's limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dplit.data.texts import base
from tests.data.own import bert, texts
from tests.data.texts.helpers import batch_of, refusal


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=40).map(lambda own: np.array(own, np.int64)), st.integers(1, 12)
)
def test_evaluation_batches_are_of_like_length(lengths, size):
    order = base.batches_of_similar_length(lengths, size)
    assert sorted(order) == list(range(len(lengths)))
    batches = [lengths[order[i : i + size]] for i in range(0, len(order), size)]
    for one in batches:
        for other in batches:
            assert one is other or one.min() >= other.max() or other.min() >= one.max()
    assert np.array_equal(order, base.batches_of_similar_length(lengths, size))


def test_the_first_evaluation_batches_stand_for_all():
    lengths = np.arange(6400)
    order = base.batches_of_similar_length(lengths, 64)
    assert abs(lengths[order[: 20 * 64]].mean() - 3200) < 1200 < abs(np.sort(lengths)[: 20 * 64].mean() - 3200)


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


def test_the_tokenizers_own_limit_and_side_hold(tmp_path):
    limited = bert(tmp_path, model_max_length=8, padding_side="left")
    data = texts(tmp_path, tokenizer=limited)
    batch = batch_of(data)
    assert batch["input_ids"].shape[1] == 8
    assert batch["attention_mask"][:, -1].all()
    data = texts(tmp_path, tokenizer=limited, padding_side="right")
    assert batch_of(data)["attention_mask"][:, 0].all()
