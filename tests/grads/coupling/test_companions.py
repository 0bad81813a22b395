"""Companions have huge values, each label, or the longest or shortest record; nothing else of a sample changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dplit.grads.coupling.companions import CastsToIntegers, companies, length, mixed, scaled


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclass
class Record:
    x: Any
    y: Any


X = torch.tensor([1.0, 2.0])
FORMS = {
    "tuple": (X, torch.tensor(1)),
    "dictionary": {"x": X, "y": 1},
    "named tuple": Pair(X, np.int64(1)),
    "dataclass": Record(X, torch.tensor([1])),
    "list": [X, 1],
    "nested": {"in": {"x": X}, "y": torch.tensor(1)},
}


def parts(sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, dict):
        return sample["in"]["x"] if "in" in sample else sample["x"], sample["y"]
    return (sample.x, sample.y) if isinstance(sample, Record) else tuple(sample)


@pytest.mark.parametrize("form", FORMS)
def test_values_are_scaled_and_labels_set_in_samples_of_every_form(form: str) -> None:
    sample = FORMS[form]
    x, y = parts(scaled(sample, 1e3))
    assert x.tolist() == [1000.0, 2000.0]
    assert int(y) == 1
    assert parts(sample)[0] is X
    kinds = companies([sample], [sample], classes=3)
    labels = {kind.name: int(parts(kind.samples[0])[1]) for kind in kinds if "label" in kind.name}
    assert labels == {"with label 0": 0, "with label 2": 2, "with label 1": 1}
    assert all(type(kind.samples[0]) is type(sample) for kind in kinds)


def test_the_rarest_label_comes_first_and_ids_are_no_labels() -> None:
    pool = [{"y": 1 if i == 7 else 0, "id": i} for i in range(100)]
    names = [kind.name for kind in companies(pool[:2], pool)]
    assert names == ["with label 1", "with label 0"]


def test_the_longest_and_the_shortest() -> None:
    pool = [(torch.arange(n), [1] * n) for n in (3, 9, 5, 1)]
    kinds = {kind.name: kind.samples for kind in companies(pool[:1], pool)}
    assert length(kinds["with the longest record"][0]) == 18
    assert length(kinds["with the shortest record"][0]) == 2
    assert not companies(pool[:1], [pool[0], pool[0]])


def test_a_list_of_token_ids_is_one_value_and_of_floats_is_scaled() -> None:
    assert scaled({"input_ids": [1, 2, 3]}, 1e3) == {"input_ids": [1, 2, 3]}
    assert scaled({"x": [1.0, 2.0]}, 1e3) == {"x": [1000.0, 2000.0]}


def test_mixed_company_has_one_of_each_kind() -> None:
    kinds = companies([FORMS["tuple"]], [FORMS["tuple"]], classes=2)
    assert len(mixed(kinds).samples) == len(kinds) == 4


def test_a_cast_to_whole_numbers_is_noted() -> None:
    with CastsToIntegers() as casts:
        X.argmax(), X.double(), torch.arange(3).int()
    assert not casts.seen
    with casts:
        X.long()
    assert casts.seen
