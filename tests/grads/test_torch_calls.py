"""Tensors are found wherever arguments keep them; getters are what a mode receives for a property."""

from __future__ import annotations

import torch

from dplit.grads.torch_calls import property_getters, tensors
from tests.grads.tape.test_torch_functions import Seen, X


def test_getters_are_what_a_mode_receives() -> None:
    with Seen() as seen:
        assert X.T.shape == (3, 2)
        assert X.mT.shape == (3, 2)
    assert set(property_getters("T", "mT")) <= set(seen.operations)


def test_tensors_are_found_in_lists_tuples_and_dictionaries() -> None:
    a, b, c, d = (torch.ones(k) for k in range(4))
    arguments = tensors((a, 1, [b, (c, "text")]), {"x": {"y": d}, "z": None})
    assert [id(t) for t in arguments] == [id(t) for t in (a, b, c, d)]
