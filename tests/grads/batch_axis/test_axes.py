"""Where the examples are: brought outermost and back, found in a shape, and kept by the identity of a tensor."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dplit.grads.batch_axis.axes import BatchAxes, BatchAxis, InDim, Mixed, RowOwners, axis_at_depth

N = 3
AXES: dict[str, tuple[BatchAxis, torch.Tensor]] = {
    "second dimension": (InDim(1, 1, N), torch.randn(4, N, 2)),
    "flattened with others": (InDim(0, 4, N), torch.randn(4 * N * 2, 5)),
    "rows in any order": (RowOwners(torch.tensor([2, 0, 0, 1, 2, 2]), N), torch.randn(6, 5)),
    "an example without rows": (RowOwners(torch.tensor([2, 0, 0]), N), torch.randn(3, 5)),
}


@pytest.mark.parametrize("name", AXES)
def test_outermost_and_back_is_the_same(name: str) -> None:
    axis, x = AXES[name]
    outermost = axis.outermost(x)
    assert len(outermost) == N
    assert outermost.shape[-1] == x.shape[-1]
    assert torch.equal(axis.restored(outermost), x)


@pytest.mark.parametrize("name", AXES)
def test_each_example_gets_its_own_numbers(name: str) -> None:
    """Numbers are marked with the example that they belong to."""
    axis, x = AXES[name]
    mark = torch.arange(float(N))
    shape = axis.outermost(x).shape
    marked = axis.restored(mark.view(N, *[1] * (len(shape) - 1)).expand(shape))
    if isinstance(axis, RowOwners):
        assert torch.equal(marked[:, 0].long(), axis.owner)
    again = axis.outermost(marked)
    filled = axis.outermost(torch.ones_like(x)) > 0
    assert all((again[i][filled[i]] == i).all() for i in range(N))


@pytest.mark.parametrize("name", ["second dimension", "flattened with others"])
def test_a_broadcast_tensor_meets_the_same_numbers(name: str) -> None:
    axis, x = AXES[name]
    p = torch.randn(x.shape[-1])
    moved = axis.broadcast(p, x.dim())
    assert moved is not None
    assert torch.equal(axis.restored(axis.outermost(x) * moved), x * p)


def test_a_tensor_that_differs_along_the_examples_cannot_be_broadcast() -> None:
    assert InDim(1, 1, N).broadcast(torch.randn(N, 2), 3) is None
    assert Mixed("for a test").broadcast(torch.randn(2), 3) is None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_the_axis_at_a_depth_has_that_many_numbers_outside(shape: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(shape) - 1))
    shape[at] *= N
    depth = 1
    for size in shape[:at]:
        depth *= size
    axis = axis_at_depth(depth, shape, N)
    assert isinstance(axis, InDim)
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    inside = numbers.numel() // depth // N
    for i, own in enumerate(axis.outermost(numbers)):
        assert sorted(own.flatten().tolist()) == [k for k in range(numbers.numel()) if k // inside % N == i]


def test_a_reshape_through_the_examples_is_mixed() -> None:
    assert isinstance(axis_at_depth(1, (4, 3), 6), Mixed)


def test_axes_are_known_by_identity_and_keep_nothing_alive() -> None:
    axes, x = BatchAxes(N), torch.randn(2, N)
    axes.put(x, InDim(1, 1, N))
    assert axes.of(x) == InDim(1, 1, N)
    assert axes.of(x.clone()) is None
    key = id(x)
    del x
    gc.collect()
    assert axes._axes[key][0]() is None


def test_what_amounts_to_outermost_is_not_kept() -> None:
    axes, x = BatchAxes(N), torch.randn(2 * N, 4)
    for axis in (None, InDim(0, 1, N), RowOwners(torch.tensor([0, 0, 1, 1, 2, 2]), N)):
        axes.put(x, axis)
        assert not axes
        assert axes.of(x) is None
        assert axes.owners(x).tolist() == [0, 0, 1, 1, 2, 2]
        assert axes.position(x) == (0, 1)
        assert axes.depth(x) == 1


def test_rows_of_several_examples_have_no_owner() -> None:
    axes, x = BatchAxes(N), torch.randn(4, N)
    axes.put(x, InDim(1, 1, N))
    assert axes.owners(x) is None
    assert axes.depth(x) == 4
    axes.put(x, Mixed("for a test"))
    assert axes.position(x) is None
    assert axes.depth(x) is None
