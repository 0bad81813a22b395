"""Constants: known by identity, let go with their tensor, and told from data."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

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


@dataclass
class Step:
    examples: int = 3
    random_rows: bool = True
    python_data: bool = True


@pytest.mark.parametrize(
    ("operation", "arguments", "step", "data"),
    [
        (torch.tensor, ([1.0, 2.0, 3.0],), Step(), True),
        (torch.tensor, ([1.0, 2.0, 3.0],), Step(python_data=False), False),
        (torch.tensor, ([1.0, 2.0],), Step(), False),
        (torch.as_tensor, (3.0,), Step(), False),
        (torch.rand, (3, 2), Step(), True),
        (torch.rand, (3, 2), Step(random_rows=False), False),
        (torch.rand, (6, 2), Step(), False),
        (torch.randn, (4,), Step(), False),
        (torch.arange, (3,), Step(), False),
    ],
)
def test_what_makes_data(operation: Any, arguments: tuple[object, ...], step: Step, data: bool) -> None:
    """Three rows are the examples', of random numbers and of what Python makes of a batch's lists; nothing by divisibility."""
    assert makes_data(operation, operation(*arguments), step) is data


@pytest.mark.parametrize("examples", [2, 4, 5, 10, 20, 25, 50])
def test_mutant_ownership_by_divisibility_would_be_seen(examples: int) -> None:
    """A hundred negatives drawn for all belong to nobody, whatever divides a hundred."""
    assert not makes_data(torch.randint, torch.randint(9, (100,)), Step(examples))


def test_constants_are_followed_through_operations() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("fixed", torch.ones(3))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    module.frozen, module.attribute = frozen, torch.zeros(3)
    data = torch.tensor([1.0, 2.0, 3.0])
    with Tape(module, 3) as tape:
        derived = module.fixed + torch.arange(3)
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
    data = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    with Tape(module, 2) as tape:
        of_constant, of_derived, of_data = module(data)
    assert tape.is_constant(of_constant)
    assert tape.is_constant(of_derived)
    assert not tape.is_constant(of_data)
    assert tape.is_constant(module.kept["ids"])


def test_mutant_that_takes_every_made_parameter_for_constant_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tape, "_learn_made", lambda self, parameter: self._constants.add(parameter))
    with pytest.raises(AssertionError):
        test_parameters_made_of_constants_are_constant_and_those_of_data_are_not()
