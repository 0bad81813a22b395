"""Ownership follows a step: what mixes examples is seen whatever the values, also where only a number of rows tells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.grads.ownership.batch_owners import BatchOwners
from dplit.grads.ownership.experiment import TRIALS
from dplit.grads.ownership.owner_map import NONE, SEVERAL, Owned, compact, joined, joined_over, reshaped, tidied
from dplit.grads.ownership.ownership import Ownership
from dplit.grads.ownership.random_state import draw_again, random_state
from dplit.grads.ownership.storage_owners import StorageOwners

Body = Callable[[Tensor], Tensor]
N = 4


def followed(body: Body, seed: int = 0) -> tuple[Ownership, Tensor]:
    x = torch.randn(N, 3, generator=torch.Generator().manual_seed(seed))
    with Ownership(N) as ownership:
        ownership.own_rows(x)
        result = body(x)
    return ownership, result


def changes(body: Body) -> bool:
    """Whether numbers of the results of some example change with another, for some draw."""
    for seed in range(20):
        x = torch.randn(N, 3, generator=torch.Generator().manual_seed(seed))
        base = body(x.clone())
        for j in range(N):
            other = x.clone()
            other[j] = torch.randn(3, generator=torch.Generator().manual_seed(1000 + seed)) * 10
            moved = ~torch.isclose(body(other), base, equal_nan=True)
            if bool(moved[torch.arange(N) != j].any()):
                return True
    return False


def chosen(x: Tensor) -> Tensor:
    """Rows of which the records decide how many there are."""
    return x[x[:, 0] > 0]


def moved_figures(x: Tensor) -> Tensor:
    """The running mean, which batch normalisation writes without saying so."""
    mean, var = torch.zeros(3), torch.ones(3)
    F.batch_norm(x, mean, var, training=True)
    return x.sum(1) + mean.sum()


MIXES: dict[str, Body] = {
    "a count by ones": lambda x: x.sum(1) * torch.ones_like(chosen(x)).sum(),
    "a count by ones and zeros": lambda x: x.sum(1) + (torch.zeros_like(chosen(x)) + 1).sum(),
    "a count by a product of matrices": lambda x: (
        x.sum(1) * (torch.ones_like(chosen(x)).t() @ torch.ones_like(chosen(x))).sum()
    ),
    "a count by a scalar product": lambda x: (
        x.sum(1) * torch.ones_like(chosen(x)[:, 0]).dot(torch.ones_like(chosen(x)[:, 0]))
    ),
    "a count by ones in one row": lambda x: x.sum(1) * torch.ones_like(chosen(x)).view(-1).sum(),
    "a count by ones side by side": lambda x: x.sum(1) * torch.cat([torch.ones_like(chosen(x))] * 2).sum(),
    "a count by running totals": lambda x: x.sum(1) * torch.ones_like(chosen(x)).cumsum(0).sum(),
    "a count by columns": lambda x: x.sum(1) * torch.ones_like(chosen(x))[:, 0].sum(),
    "a count by a filled tensor": lambda x: x.sum(1) * torch.full_like(chosen(x), 2.0).sum(),
    "how often each number occurs": lambda x: (
        x.sum(1) * torch.ones_like(x[:, 0].sign().unique(return_counts=True)[1]).sum()
    ),
    "the sum of chosen rows": lambda x: x.sum(1) + chosen(x).sum(),
    "the running mean": moved_figures,
    "norms of columns": lambda x: torch._weight_norm(x, torch.ones(1, 3), 1).sum(1),
    "above another in place": lambda x: x.clone().ge_(x.flip(0)).sum(1),
    "above another by an operation without a rule": lambda x: torch.cdist(x, x).sum(1),
}


@pytest.mark.parametrize("name", sorted(MIXES))
def test_what_mixes_is_seen_whatever_the_records(name: str) -> None:
    assert changes(MIXES[name])
    for seed in range(8):
        ownership, result = followed(MIXES[name], seed)
        assert not ownership.alone(result) or ownership.reads, f"seed {seed}"


APART: dict[str, Body] = {
    "rows": lambda x: x.sum(1),
    "sorted and put back": lambda x: x[x[:, 0].argsort()][x[:, 0].argsort().argsort()].sum(1),
    "ones of sorted rows": lambda x: x.sum(1) * torch.ones_like(x[:, 0].sort()[0]).sum(),
    "in place": lambda x: x.clone().mul_(2).add_(x).sum(1),
    "rows written to rows": lambda x: torch.zeros(N).index_put((torch.arange(N),), x[:, 0]),
}


@pytest.mark.parametrize("name", sorted(APART))
def test_what_keeps_apart_passes(name: str) -> None:
    assert not changes(APART[name])
    ownership, result = followed(APART[name])
    assert ownership.alone(result), [str(b) for b in ownership.blames]


def test_the_size_of_what_records_chose_is_a_read_also_of_equal_numbers() -> None:
    ownership, _ = followed(lambda x: x.sum(1) / max(1, torch.zeros_like(chosen(x)).shape[0]))
    assert [read.operation for read in ownership.reads] == ["shape"]


def test_the_operation_and_two_examples_are_named() -> None:
    ownership, result = followed(lambda x: x.sum(1) - x.mean())
    found = ownership.mixed_at(result)
    assert found is not None
    assert found[1] is not None
    assert (found[1].operation, found[1].examples) == ("mean", (0, 3))
    assert "test_ownership.py:" in str(found[1])


def test_an_experiment_is_repeated_enough_that_truth_values_show_their_examples() -> None:
    assert 0.5**TRIALS < 1e-3


# -- maps ------------------------------------------------------------------------------------------------------------------

OWNERS = st.lists(st.integers(SEVERAL, 3), min_size=1, max_size=5)


def by_hand(owners: list[int], mixed: int) -> int:
    several, examples = [o for o in owners if o < NONE], {o for o in owners if o >= 0}
    return max(several) if several else mixed if len(examples) > 1 else next(iter(examples), NONE)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(OWNERS)
def test_owners_are_joined_as_by_hand(owners: list[int]) -> None:
    expected, given_ = by_hand(owners, SEVERAL - 1), torch.tensor(owners, dtype=torch.int32)
    assert int(joined_over(given_, [0], SEVERAL - 1)) == expected
    assert (int(joined(list(given_), SEVERAL - 1)) < NONE) == (expected < NONE)
    if expected >= NONE:
        assert int(joined(list(given_), SEVERAL - 1)) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.permutations([2, 3, 4, 1]), st.permutations([6, 4, 1]), st.integers(0, 3), st.booleans())
def test_a_map_is_reshaped_as_its_numbers(before: list[int], after: list[int], dim: int, varies: bool) -> None:
    marks = torch.arange(before[dim], dtype=torch.int32).view([-1 if d == dim else 1 for d in range(4)])
    owner = (marks if varies else marks[:1, :1, :1, :1]).expand(before)
    assert torch.equal(reshaped(owner, after), owner.reshape(after))
    assert torch.equal(tidied(owner.contiguous()), owner)
    assert compact(tidied(owner.contiguous())).numel() == (before[dim] if varies else 1)


def test_an_order_makes_a_map_no_constant() -> None:
    owner = torch.full((3,), NONE, dtype=torch.int32)
    assert Owned(owner).is_constant
    assert not Owned(owner, ("nonzero",), uniform=True).is_constant
    assert not Owned(owner, ("nonzero",), uniform=True).ordered


# -- batches, random numbers -----------------------------------------------------------------------------------------------


def test_rows_are_the_examples_and_others_must_be_declared() -> None:
    batch = {"x": torch.randn(3, 2), "rows": torch.randn(5, 2), "whose": torch.tensor([0, 0, 1, 2, 2])}
    with Ownership(3) as ownership:
        BatchOwners(rows="whose").tell(ownership, batch)
        assert ownership.of(batch["x"]).owner[:, 0].tolist() == [0, 1, 2]
        assert ownership.of(batch["rows"]).owner[:, 0].tolist() == [0, 0, 1, 2, 2]
    with Ownership(3) as ownership:
        BatchOwners().tell(ownership, batch)
        assert not ownership.alone(batch["rows"].sum(1)[:3])
    with pytest.raises(ConfigurationError, match="names examples"):
        BatchOwners(rows="whose").row_owners(batch, 2)


def test_random_numbers_are_drawn_again() -> None:
    state = random_state()
    first = torch.rand(3)
    draw_again(state)
    assert torch.equal(torch.rand(3), first)


def test_a_step_that_catches_an_error_of_following_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation has run; what it wrote would be taken for something else."""

    def fails(*given: object) -> None:
        raise RuntimeError("not noted")

    def body(x: Tensor) -> Tensor:
        with suppress(RuntimeError):
            x.copy_(x.mean(0))
        return x

    followed(body)
    monkeypatch.setattr(StorageOwners, "write", fails)
    with pytest.raises(RuntimeError, match="not noted"):
        followed(body)


def test_a_write_to_one_number_by_several_names_is_of_all_that_were_written() -> None:
    def body(x: Tensor) -> Tensor:
        total = torch.zeros(3)
        total.expand(2, 3).index_put_((torch.tensor([1, 0]),), x[:2], accumulate=True)
        return x + total

    with pytest.warns(UserWarning, match="expanded tensors is deprecated"):
        ownership, result = followed(body)
    assert not ownership.alone(result)
