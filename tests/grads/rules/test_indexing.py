"""Exact gradients of parts of a parameter: slices, chunks, selections by constants, and rows looked up by data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.factors.base import DenseGrad, FactoredGrad
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.rules import indexing
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
N, T, D, H, V = 5, 4, 6, 2, 7

Body = Callable[["Net", Tensor, Tensor], Tensor]


class Net(nn.Module):
    """Parameters to take parts of, and the constants to take them by."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(D, D) / 2)
        self.fused = nn.Parameter(torch.randn(3 * D, D) / 2)
        self.bias = nn.Parameter(torch.randn(3 * D))
        self.wide = nn.Parameter(torch.randn(D, 3 * D) / 2)
        self.table = nn.Parameter(torch.randn(2 * T - 1, H))
        self.places = nn.Parameter(torch.randn(T + 9, D))
        self.experts = nn.Parameter(torch.randn(3, D, D) / 2)
        self.register_buffer("order", torch.randperm(D))
        self.register_buffer("near", torch.arange(T)[:, None] - torch.arange(T)[None] + T - 1)
        self.register_buffer("some", torch.tensor([True, False, True, True, False, True]))
        self.body = body

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.body(self, x, ids)


def chunked(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Fused weights of query, key and value, split by hand in each way there is."""
    q, k, v = m.fused.chunk(3)
    a, b, c = m.bias.split(D)
    y = F.linear(x, q, a) * F.linear(x, k, b).tanh() + F.linear(x, v, c)
    q, k, v = torch.split(m.wide, D, dim=1)
    y = y @ q + (y @ k).tanh() @ v
    for w in (*m.experts, *m.fused.tensor_split(3), *m.wide.hsplit(3), *m.fused.vsplit(3), *m.experts.unbind()):
        y = y + (x @ w).tanh()
    return y


def sliced(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = x * m.bias[:D] + x * m.bias[D : 2 * D] + x * m.bias[1 : D + 1] + m.places[: x.shape[1]] + m.places[2 : T + 2]
    y = F.linear(y, m.fused[:D], m.bias[::3]) + F.linear(y, m.fused[D:-D].T).tanh() @ m.wide[:, D : 2 * D]
    y = y @ m.wide[..., ::3] + y @ m.wide[..., 1::3] + y @ m.wide[:, 1 : D + 1] + y @ m.wide.narrow(1, 2, D)
    y = y * m.bias[4] + y @ m.experts[1] + y @ m.experts[-1, :, :] + m.experts[2, 3] * x
    return y + (x @ m.experts.select(1, 2).T).mean(-1, True)


def viewed(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = x * m.w.diagonal() + x * m.w[None, 0] + x * m.bias.unfold(0, D, 3)[1] + x @ m.fused.T[:, :D]
    y = y + x @ m.fused.view(3, D, D)[1] + (x @ m.fused.view(3, D, D).transpose(1, 2)[2]) + m.fused[:, 2][:D]
    return y + (x[..., :3] @ m.w[:3].mT[:, [0]].T[:, :1].expand(-1, 1).T.expand(3, 1)) + m.w[1:5, 2:5][2, 1] * x


def overlapping(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    windows = m.bias.unfold(0, D, 2)
    return x * windows[0] + (x @ windows.T)[..., :D] + x * m.bias.as_strided((D,), (0,)) + x * m.bias[:D]


def picked(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = F.linear(x, m.w[m.order]) + x @ m.w[:, m.order] + x * m.bias[m.order]
    y = y + F.linear(x, m.w[m.order], m.bias[m.order]) + F.linear(x, m.w[m.some])[..., :1]
    y = y + (x * m.w[m.some, 1].sum()) + x * m.w[[0, 1, 2]][1] + m.w[m.w > 0].sum() * x
    y = y + F.linear(x, m.w.index_select(0, m.order)) + x @ torch.index_select(m.w, 1, m.order) + x * m.w.take(m.order)
    y = y + x * m.w.gather(1, m.order[:, None])[:, 0] + x * torch.take_along_dim(m.w, m.order[None], 0)[0]
    return y + x @ m.w.flip(0) + x @ m.w.roll(1, 1) + x @ torch.rot90(m.w) + x * m.w.masked_select(m.some)[:D]


def repeats(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Rows taken twice: groups of heads that share a key, signs that repeat."""
    twice = m.order.repeat(2) // 2
    y = F.linear(x, m.w[twice])[..., :D] + F.linear(x, m.w[twice], m.bias[twice])[..., -D:] + x * m.bias[twice][:D]
    y = y + F.linear(x, m.w[:3].repeat_interleave(2, 0)) + x @ m.w[:, :3].repeat_interleave(2, dim=1)
    y = y + x * m.bias[:2].repeat(3) + x * m.bias[:3].tile((2,)) + (x @ m.w[:3, :3].repeat(2, 2))
    return y + x * m.places[torch.zeros(3 * D, dtype=torch.long)].sum(0) + x * m.bias[m.order[:, None] // 2].sum(1)


def triangles(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    return x @ m.w.tril() + x @ torch.triu(m.w, 1) + x * m.w.tril(-1)[2] + x * m.w.triu(diagonal=1)[3]


def near(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Swin's relative positions, added to the scores of every window."""
    scores = x.repeat_interleave(3, 0)[:, None, :, :T].expand(-1, H, -1, -1)
    bias = m.table[m.near.view(-1)].view(T, T, -1).permute(2, 0, 1).contiguous()
    scores = (scores + bias.unsqueeze(0)).softmax(-1) + m.table[m.near].permute(2, 0, 1)
    return scores.unflatten(0, (-1, 3)).flatten(1)


def learned(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Positions: the first ones, by constant ids, and by constant ids repeated for each example."""
    where = torch.arange(T)
    y = x + m.places[:T] + m.places[where] + m.places[None, :T] + m.places[where.expand(x.shape[0], -1)]
    return y * m.places[where[None] // 2] + m.places[where // 2] + torch.index_select(m.places, 0, where + 3)


def rows(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Rows looked up by ids that are data."""
    y = x + m.places[ids] + m.places[ids.flatten()].view(x.shape) + m.places[-ids - 1, :] + m.places[ids, ...] * x
    y = y + torch.index_select(m.places, 0, ids.flatten()).view(x.shape) * m.bias[ids][..., None]
    y = y + m.places[ids[:, 0]][:, None] + m.fused.index_select(0, ids[:, 1])[:, None]
    y = y + m.wide[:, ids].movedim(0, -1) + m.wide[1:, ids + 2].sum(0)[..., None]
    return y + m.wide[ids % D, ids + 1][..., None] + torch.take(m.wide, ids * 3)[..., None] + m.fused[1:][ids]


def numbers(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Single numbers gathered by ids that are data."""
    n = x.shape[0]
    y = x + m.wide.gather(0, ids[:, :1].expand(-1, D) % D)[:, None] + m.fused[:, 0].gather(0, ids[:, 0])[:, None, None]
    kept = m.places.expand(n, -1, -1).gather(1, ids[..., None].expand(-1, -1, D))
    y = y + kept + torch.gather(m.places[None].repeat(n, 1, 1), 1, ids[..., None].expand(-1, -1, D))
    twice = m.places[None].expand(2 * n, -1, -1).gather(1, ids.repeat_interleave(2, 0)[:, :, None])
    return y * twice.view(n, 2, T, 1).sum(1)


def experts(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """An expert's number that comes from data selects the same weight for all examples."""
    best = ids[:, 0] % 3
    y = x
    for k in (best == 0).any().long().view(1).nonzero() + ids.max() % 3:
        y = y + (x @ m.experts[k[0]]) * (best == k)[:, None, None]
    number = ids[0].sum() % 3
    mask = torch.arange(D) < ids.max() % 4 + 1
    picked = x @ m.experts[number] + m.experts.index_select(0, number.view(()))[0, 0] + x * m.w[mask].sum(0)
    return y + picked + m.w.masked_select(mask)[0] * x


BODIES = [chunked, sliced, viewed, overlapping, picked, repeats, triangles, near, learned, rows, numbers, experts]


def record(body: Body, n: int = N, dtype: torch.dtype = torch.float64) -> tuple[Tape, dict[str, list[FactoredGrad]]]:
    torch.manual_seed(n)
    net, x = Net(body).to(dtype), torch.randn(n, T, D, dtype=dtype)
    ids = torch.randint(0, V, (n, T))
    if body is experts:
        ids[:] = ids[0]
    loss = lambda x, ids: net(x, ids).square().flatten(1).sum(1)  # noqa: E731
    expected = loop_gradients(net, lambda i: loss(x[i : i + 1], ids[i : i + 1]), n)
    with Tape(net, n) as tape:
        value = loss(x, ids)
    gradients = tape.backward(value)
    law_exact(gradients, expected, TOLERANCE[dtype])
    return tape, gradients.factors


def law_parts(*bodies: Body) -> None:
    for body in bodies:
        record(body)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n", [1, 2, T, N])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Body, n: int, dtype: torch.dtype) -> None:
    record(body, n, dtype)


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("factors.base", "factors.ghost_norm", "factors.row_sparse", "rules.indexing"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 40)
    law_parts(*BODIES)


@pytest.mark.parametrize("body", [chunked, sliced, near, learned, rows], ids=lambda body: body.__name__)
def test_parts_cost_no_backward_of_their_own(body: Body) -> None:
    _, factors = record(body)
    assert not {VjpGrad} & {type(grad) for found in factors.values() for grad in found}


def test_a_relative_position_table_is_summed_by_row() -> None:
    _, factors = record(near)
    assert {type(grad) for grad in factors["table"]} == {DenseGrad}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: x * torch.take_along_dim(m.w, ids[:1, :1], 0), "take_along_dim on w"),
        (lambda m, x, ids: x.flatten().index_select(0, ids[0]) * m.w.scatter(0, ids, 0.0)[0, :4], "scatter on w"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    with pytest.raises(UnsupportedOperation, match=named) as caught, Tape(net := Net(body), N):
        net(torch.randn(N, T, D), torch.randint(0, D, (N, T)))
    assert "\n" not in str(caught.value)


def test_ids_out_of_range_are_an_error() -> None:
    net = Net(lambda m, x, ids: m.w[ids, ids + D - 1].sum(1))
    with pytest.raises(IndexError), Tape(net, N):
        net(torch.randn(N, T, D), torch.ones(N, T, dtype=torch.long))


def test_mutant_that_takes_repeated_rows_for_a_place_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "_no_repeats", lambda rows, length: True)
    with pytest.raises(AssertionError):
        law_parts(near)


def test_mutant_that_credits_rows_to_the_wrong_examples_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one example credited to the example at the other end."""
    looked_up = indexing.embedding
    monkeypatch.setattr(indexing, "embedding", lambda tape, ids, table: looked_up(tape, ids.flip(0), table).flip(0))
    with pytest.raises(AssertionError):
        law_parts(rows)
