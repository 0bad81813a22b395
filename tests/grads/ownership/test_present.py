"""What is there before a step is known by itself; what comes in from elsewhere is refused, whenever it was looked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dplit.errors import CoupledExamples
from dplit.grads.ownership import present
from dplit.grads.ownership.present import PRESENT, Present, address_of
from dplit.grads.ownership.proof import Proof
from dplit.grads.ownership.storage_owners import StorageOwners
from dplit.grads.types import Batch
from tests.grads.ownership.corpus.base import Net, each
from tests.grads.ownership.test_proof import recorded


class Scaled(torch.Tensor):
    """A subclass of tensors."""


def test_tensors_that_are_there_are_found_once_they_are_looked_for() -> None:
    there, of_a_subclass = torch.ones(3), torch.ones(3).as_subclass(Scaled)
    seen = Present()
    assert not seen.is_known
    seen.look()
    later = torch.ones(3)
    assert [seen.has(address_of(t)) for t in (there, there[1:], of_a_subclass, later)] == [True, True, True, False]


def test_what_was_not_there_is_remembered_as_missed() -> None:
    there, seen = torch.ones(3), Present()
    seen.look()
    assert seen.has(address_of(there))
    assert not seen.missed
    assert not seen.has(address_of(torch.ones(3)))
    assert seen.missed


def test_an_address_of_freed_memory_is_not_taken_for_that_of_later_memory() -> None:
    seen, freed = Present(), [torch.ones(3) for _ in range(100)]
    seen.look()
    freed.clear()
    assert not any(seen.has(address_of(torch.ones(3))) for _ in range(1000))


def test_tensors_that_have_no_memory_yet_are_none_of_the_steps_doing() -> None:
    lazy = torch.nn.LazyLinear(3)
    PRESENT.look()
    owners = StorageOwners()
    owners.note_present()
    assert owners.came_in(torch.ones(2))
    assert isinstance(lazy.weight, torch.nn.UninitializedParameter)


def law_a_constant_may_be_newer_than_the_last_look() -> None:
    PRESENT.look()
    constant = torch.ones(6)
    recorded(Proof(), lambda m, b, n: each(m(b["x"] * constant), b["y"]))


def test_a_constant_may_be_newer_than_the_last_look() -> None:
    law_a_constant_may_be_newer_than_the_last_look()


def test_mutant_that_never_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        present.Present, "missed", property(lambda self: False, lambda self, value: None), raising=False
    )
    with pytest.raises(CoupledExamples, match="not there before the step"):
        law_a_constant_may_be_newer_than_the_last_look()


def from_elsewhere(m: Net, b: Batch, n: int) -> Tensor:
    """Numbers that no operation made."""
    x = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(b["x"].mean(0)))
    return each(m(b["x"] * x), b["y"])


@pytest.mark.parametrize("looked", [True, False])
def test_what_comes_in_within_a_step_is_refused_whenever_it_was_looked_for(looked: bool) -> None:
    if looked:
        PRESENT.look()
    with pytest.raises(CoupledExamples):
        recorded(Proof(), from_elsewhere)
