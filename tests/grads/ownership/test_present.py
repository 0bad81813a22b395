"""What is there before a step is known by itself; what comes in from elsewhere is refused, whenever it was looked for."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from dplit.errors import CoupledExamples
from dplit.grads.ownership.present import PRESENT, Present, address_of
from dplit.grads.ownership.proof import Proof
from dplit.grads.ownership.storage_owners import StorageOwners
from dplit.grads.types import Batch
from tests.grads.ownership.corpus.base import Net, each, vectors
from tests.grads.ownership.oracle import seeded
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


def test_it_is_looked_again_where_something_was_missed_for_what_is_older_than_the_step() -> None:
    seen = Present()
    seen.look()
    older = torch.ones(3)
    with seen.watched():
        made = torch.ones(3)
        assert not seen.look_again()
        assert not seen.has(address_of(older))
        assert seen.look_again()
        assert seen.has(address_of(older))
        assert not seen.has(address_of(made))


def test_where_the_step_runs_the_collector_it_is_not_looked_again() -> None:
    seen = Present()
    seen.look()
    with seen.watched():
        made = torch.ones(3)
        gc.collect()
        assert not seen.has(address_of(made))
        assert not seen.look_again()
    assert gc.isenabled()


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
    monkeypatch.setattr(Present, "look_again", lambda self: False)
    with pytest.raises(CoupledExamples, match="not there before the step"):
        law_a_constant_may_be_newer_than_the_last_look()


def elsewhere(x: Tensor) -> Tensor:
    """Numbers that no operation made."""
    return torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x.mean(0)))


def from_elsewhere(m: Net, b: Batch, n: int) -> Tensor:
    return each(m(b["x"] * elsewhere(b["x"])), b["y"])


@pytest.mark.parametrize("looked", [True, False])
def test_what_comes_in_within_a_step_is_refused_whenever_it_was_looked_for(looked: bool) -> None:
    if looked:
        PRESENT.look()
    with pytest.raises(CoupledExamples):
        recorded(Proof(), from_elsewhere)


def law_what_a_followed_step_keeps_is_not_taken_for_older() -> None:
    """It is made in the first run, kept outside of the module, and used in every later one."""
    kept: list[Tensor] = []

    def losses(m: Net, b: Batch, n: int) -> Tensor:
        if not kept:
            kept.append(elsewhere(b["x"]))
        return each(m(b["x"] * kept[0]), b["y"])

    PRESENT.look()
    seeded(0)
    module, batch = Net(), vectors(4, torch.Generator().manual_seed(0))
    with pytest.raises(CoupledExamples):
        Proof().certify(module, lambda b, n: losses(module, b, n), batch, 4)


def test_what_a_followed_step_keeps_is_not_taken_for_older() -> None:
    law_what_a_followed_step_keeps_is_not_taken_for_older()


def test_mutant_that_looks_at_all_that_is_there_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Present, "look_again", lambda self: (self.look(), True)[1])
    with pytest.raises(pytest.fail.Exception):
        law_what_a_followed_step_keeps_is_not_taken_for_older()
