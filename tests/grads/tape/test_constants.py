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


def test_those_alive_are_listed() -> None:
    constants, x = Constants(), torch.ones(2)
    constants.add(x)
    constants.add(torch.ones(2))
    gc.collect()
    assert [value is x for value in constants] == [True]


class Making(nn.Module):
    """Makes parameters while it runs, of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.ones(2, 3)), {"ids": torch.arange(2)}
        self.register_buffer("fixed", torch.ones(3, 2))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        of_constant, of_derived = nn.Parameter(self.fixed.T), nn.Parameter(self.weight * 2, requires_grad=False)
        of_data = nn.Parameter(x)
        for made in (of_constant, of_derived, of_data):
            made + self.weight.sum()
        return [of_constant, of_derived, of_data]


def test_parameters_made_of_constants_are_constant_and_those_of_data_are_not() -> None:
    module = Making()
    with Tape(module, 2) as tape:
        of_constant, of_derived, of_data = module(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert tape.is_constant(of_constant)
    assert tape.is_constant(of_derived)
    assert not tape.is_constant(of_data)
    assert tape.is_constant(module.kept["ids"])


def test_mutant_that_takes_every_made_parameter_for_constant_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tape, "_learn_made", lambda self, parameter: self._constants.add(parameter))
    with pytest.raises(AssertionError):
        test_parameters_made_of_constants_are_constant_and_those_of_data_are_not()
