"""Constants: known by identity, let go with their tensor, and told from data."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from dplit.grads import Tape
from dplit.grads.tape.constants import Constants, makes_data


def test_a_set_by_identity() -> None:
    constants, x = Constants(), torch.ones(2)
    constants.add(x)
    assert x in constants
    assert x.clone() not in constants
    constants.discard(x)
    constants.discard(x)
    assert x not in constants


def test_it_keeps_nothing_alive_and_is_not_misled_by_a_reused_address() -> None:
    constants = Constants()
    constants.add(gone := torch.ones(2))
    key = id(gone)
    del gone
    gc.collect()
    other = torch.ones(2)
    constants._refs[id(other)] = constants._refs.pop(key)
    assert other not in constants


@pytest.mark.parametrize(
    ("operation", "arguments", "data"),
    [
        (torch.tensor, ([1.0, 2.0],), True),
        (torch.as_tensor, (3.0,), True),
        (torch.rand, (6, 2), True),
        (torch.rand, (5, 2), False),
        (torch.randn, (4,), False),
        (torch.arange, (6,), False),
    ],
)
def test_what_makes_data(operation, arguments: tuple[object, ...], data: bool) -> None:
    """Values from outside torch do, and random numbers with a row for each of the three examples."""
    assert makes_data(operation, operation(*arguments), 3) is data


def test_constants_are_followed_through_operations() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("fixed", torch.ones(3))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    module.frozen, module.attribute = frozen, torch.zeros(3)
    with Tape(module, 3) as tape:
        derived = module.fixed + torch.arange(3)
        data = torch.tensor([1.0, 2.0, 3.0])
        met = derived * data
        written = torch.zeros(3)
        written[:] = data
        part = torch.zeros(3, 3)[1]
        part.copy_(data)
    constant = [module.fixed, module.attribute, frozen.weight, derived]
    assert all(tape.is_constant(t) for t in constant)
    assert not any(tape.is_constant(t) for t in (data, met, written, part, module.weight))
    assert not tape.is_constant(part._base)


def test_mutant_that_keeps_overwritten_constants_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Constants, "discard", lambda self, value: None)
    with pytest.raises(AssertionError):
        test_constants_are_followed_through_operations()
