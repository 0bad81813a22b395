"""Group ids are whole numbers of the declared list, wherever a batch keeps them."""

from __future__ import annotations

import pytest
import torch

from dplit.errors import ConfigurationError
from dplit.groups import declared, described, group_ids

NAMES = ("Female", "Male")
IDS = torch.tensor([1, 0, 1])


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ({"sex": IDS}, "sex"),
        ([None, IDS], 1),
        ((IDS,), 0),
        (IDS + 4, lambda batch: batch - 4),
        ({"sex": IDS.int()}, "sex"),
    ],
)
def test_ids_are_read_by_key_index_or_function(batch, key) -> None:
    ids = group_ids(batch, key, NAMES)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [1, 0, 1]


def test_a_batch_of_nobody_has_no_ids() -> None:
    assert group_ids({"sex": IDS[:0]}, "sex", NAMES).shape == (0,)


@pytest.mark.parametrize(
    ("batch", "key", "says"),
    [
        ({"x": IDS}, "sex", "no group entry 'sex' (a mapping with keys x)"),
        ([IDS], 3, "no group entry 3 (a list of 1)"),
        (7, "sex", "no group entry 'sex' (a int)"),
        ({"sex": [0, 1]}, "sex", "got a list of 2"),
        ({"sex": IDS.float()}, "sex", "got a torch.float32 tensor of shape (3,)"),
        ({"sex": IDS[None]}, "sex", "got a torch.int64 tensor of shape (1, 3)"),
        ({"sex": IDS + 1}, "sex", "group id 2 lies outside the declared list of 2: Female, Male"),
        ({"sex": IDS - 1}, "sex", "group id -1 lies outside"),
    ],
)
def test_anything_else_is_refused_in_one_line(batch, key, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        group_ids(batch, key, NAMES)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_distinct_and_not_empty() -> None:
    assert declared(["a", 1]) == ("a", "1")
    assert declared([]) == ()
    for names in (["a", "a"], ["a", ""], [1, "1"]):
        with pytest.raises(ConfigurationError, match=r"terms=.* must be distinct, non-empty names"):
            declared(names, "terms")


def test_what_a_value_is() -> None:
    assert described({}) == "a mapping with keys (none)"
    assert described((1, 2)) == "a tuple of 2"
    assert described("text") == "a str"
    assert described(None) == "nothing"
