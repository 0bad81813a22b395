"""A prediction is the class of the largest logit, or none where the softmax is not a number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dplit import predictions
from dplit.predictions import NO_CLASS, predicted_classes

NUMBERS = st.one_of(st.floats(-5, 5, width=32), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]))
ROWS = st.integers(2, 4).flatmap(lambda c: st.lists(st.lists(NUMBERS, min_size=c, max_size=c), min_size=1, max_size=6))


def law_a_prediction_is_where_the_softmax_is_a_number(logits: Tensor) -> None:
    found = predictions.predicted_classes(logits)
    assert found.dtype == torch.int64
    for row, pred in zip(logits, found.tolist(), strict=True):
        sure = (row == math.inf).sum() == 1 and not row.isnan().any()
        if row.softmax(0).isnan().any() and not sure:
            assert pred == NO_CLASS
        else:
            assert row[pred] == row.max()


@settings(deadline=None, derandomize=True)
@given(ROWS, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_a_prediction_is_where_the_softmax_is_a_number(rows: list[list[float]], dtype: torch.dtype) -> None:
    law_a_prediction_is_where_the_softmax_is_a_number(torch.tensor(rows, dtype=dtype))


@settings(deadline=None, derandomize=True)
@given(st.lists(NUMBERS, max_size=6))
def test_one_logit_is_the_second_of_two_the_first_of_which_is_0(column: list[float]) -> None:
    one = torch.tensor(column)
    two = torch.stack([torch.zeros_like(one), one], 1)
    ties = (one == 0).to(torch.int64)
    assert torch.equal(predicted_classes(one), predicted_classes(two).where(ties == 0, torch.zeros_like(ties)))
    assert torch.equal(predicted_classes(one), predicted_classes(one[:, None]))


def test_of_no_examples_there_are_no_predictions() -> None:
    assert predicted_classes(torch.zeros(0, 3)).shape == predicted_classes(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("row", [[math.nan, 1.0], [math.inf, math.inf], [-math.inf, -math.inf]])
def test_mutant_argmax_is_caught(row: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "predicted_classes", lambda logits: logits.argmax(1))
    with pytest.raises(AssertionError):
        law_a_prediction_is_where_the_softmax_is_a_number(torch.tensor([row]))
