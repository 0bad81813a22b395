"""Slices of a parameter: where they lie, and exact norms whatever two of them have in common."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.grads import Tape
from dplit.grads.factors.slices import RowSlice, SlicedGrad, StridedSlice, TensorSlice, slice_of_view
from tests.grads.rules.test_indexing import D, N, Net, T, chunked, law_parts, sliced
from tests.oracle import law_exact, loop_gradients


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_exact_for_any_two_slices(data: st.DataObject) -> None:
    """Apart, equal, nested or across one another: the cross term is that of the two gradients."""
    bounds = st.builds(slice, st.integers(0, 5), st.integers(6, 8), st.integers(1, 3))
    torch.manual_seed(0)
    net = nn.ParameterDict({"w": nn.Parameter(torch.randn(8, 8).double())})
    x = torch.randn(N, 8).double()
    first, second = (tuple(data.draw(bounds) for _ in range(2)) for _ in range(2))
    turned = data.draw(st.booleans())

    def loss(x: Tensor) -> Tensor:
        w = net["w"].T if turned else net["w"]
        return sum(((x[:, : p.shape[1]] @ p.T).square().sum(1) for p in (w[first], w[second])), torch.zeros(len(x)))

    expected = loop_gradients(net, lambda i: loss(x[i : i + 1]), N)
    with Tape(net, N) as tape:
        value = loss(x)
    law_exact(tape.backward(value), expected, 1e-10)


def law_slice(part: TensorSlice, attached: Tensor, parent: Tensor) -> None:
    """A slice scatters as autograd does, and knows its numbers."""
    values = torch.randn(attached.shape, dtype=attached.dtype)
    (expected,) = torch.autograd.grad(attached, parent, values, retain_graph=True)
    assert torch.equal(part.scatter(values[None])[0], expected)
    count = torch.arange(parent.numel()).view(parent.shape).to(parent.dtype)
    with torch.no_grad():
        parent.copy_(count)
    assert part.flat_indices().tolist() == attached.flatten().long().tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_slices_of_views(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    base = torch.zeros([2 * s for s in shape], dtype=torch.float64)[tuple(slice(1, 1 + s) for s in shape)]
    parent = base.permute(data.draw(st.permutations(range(len(shape))))).requires_grad_()
    index = tuple(slice(data.draw(st.integers(0, s - 1)), s, data.draw(st.integers(1, 2))) for s in parent.shape)
    attached = parent[index].movedim(0, -1)
    part = slice_of_view(attached, parent)
    assert part is not None
    law_slice(part, attached, parent)


def test_slices_are_apart_only_if_they_share_nothing() -> None:
    w = torch.randn(6, 8, requires_grad=True)
    views = [w[:3], w[3:], w[:, ::2], w[:, 1::2], w[2:4, 2:4], w.view(-1)[::5], w.T[3], w.diagonal(), w]
    views += [w.view(3, 16)[1], w.view(3, 2, 8)[:, 1], w.unflatten(1, (2, 4))[:, 1]]
    slices = [slice_of_view(v, w) for v in views]
    slices += [RowSlice((2, 8), (6, 8), torch.tensor([5, 0]), 8)]
    for a in slices:
        for b in slices:
            assert a is not None
            assert b is not None
            assert a.disjoint_from(b) == (not {*a.flat_indices().tolist()} & {*b.flat_indices().tolist()})
            assert a.same_as(b) == (a is b)


def test_what_holds_a_number_twice_is_no_slice() -> None:
    w = torch.randn(6, 1, requires_grad=True)
    assert slice_of_view(w.expand(6, 4), w) is None
    assert slice_of_view(w.flatten().unfold(0, 3, 1), w) is None
    assert slice_of_view(w.clone(), w) is None
    assert slice_of_view(w.expand(6, 4)[:, 0], w.expand(6, 4)) is None


def test_sums_of_narrow_parts_are_wide() -> None:
    torch.manual_seed(0)
    model, x = (
        nn.ParameterDict({"w": nn.Parameter(torch.randn(8, 4))}).to(torch.bfloat16),
        torch.randn(200, 4).bfloat16(),
    )
    with Tape(model, 200) as tape:
        value = F.linear(x, model["w"][:3]).sum(1)
    total = tape.backward(value).weighted_sum(torch.ones(200))["w"]
    assert total.dtype == torch.float32
    assert torch.allclose(total[:3], x.float().sum(0).expand(3, -1), atol=1e-3)


def test_parts_that_are_apart_build_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thirds of a fused weight: norms are those of three linear maps."""
    tape, x = Tape(net := Net(chunked), N), torch.randn(N, T, D)
    with tape:
        value = sum(F.linear(x, part).square().flatten(1).sum(1) for part in net.fused.chunk(3))
    gradients = tape.backward(value)
    monkeypatch.setattr(SlicedGrad, "dense", lambda grad: pytest.fail("built"))
    assert torch.all(gradients.norms() > 0)


def test_mutant_that_takes_overlapping_slices_for_apart_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StridedSlice, "disjoint_from", lambda part, other: True)
    with pytest.raises(AssertionError):
        law_parts(sliced)


def test_mutant_that_takes_equal_shapes_for_one_slice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StridedSlice, "same_as", lambda part, other: part.shape == other.shape)
    with pytest.raises(AssertionError):
        law_parts(chunked)
