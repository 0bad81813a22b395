"""Rows brought to slots of their examples, and back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dplit.grads.batch_axis.row_slots import most_rows, rows_to_slots, slots_to_rows

OWNERS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=0, max_size=9))
)


def by_hand(x: Tensor, owner: Tensor, n: int, most: int) -> Tensor:
    slots, filled = x.new_zeros(n, most, *x.shape[1:]), [0] * n
    for row, i in zip(x, owner.tolist(), strict=True):
        slots[i, filled[i]] = row
        filled[i] += 1
    return slots


def drawn(n: int, owners: list[int]) -> tuple[Tensor, Tensor, int]:
    owner = torch.tensor(owners, dtype=torch.long)
    return torch.randn(len(owners), 3, dtype=torch.float64), owner, most_rows(owner, n)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(OWNERS)
def test_each_row_goes_to_its_examples_slots_in_order_and_comes_back(case: tuple[int, list[int]]) -> None:
    n, owners = case
    x, owner, most = drawn(n, owners)
    slots = rows_to_slots(x, owner, n, most)
    assert torch.equal(slots, by_hand(x, owner, n, most))
    assert torch.equal(slots_to_rows(slots, owner), x)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(OWNERS)
def test_their_gradients_are_those_of_numbers(case: tuple[int, list[int]]) -> None:
    n, owners = case
    x, owner, most = drawn(n, owners)
    if owners:
        assert torch.autograd.gradcheck(lambda v: rows_to_slots(v, owner, n, most), x.requires_grad_())
        slots = torch.randn(n, most, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda v: slots_to_rows(v, owner), slots)


def test_the_most_rows_of_an_example_are_one_at_least() -> None:
    assert most_rows(torch.tensor([], dtype=torch.long), 3) == 1
    assert most_rows(torch.tensor([0, 2, 2, 2]), 3) == 3
