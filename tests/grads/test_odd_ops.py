"""Promise 11 for bilinear maps, bags of embeddings and learned slopes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.rules import activation, bilinear, embedding_bag
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
N, T, D, V = 5, 4, 6, 7

Body = Callable[["Net", Tensor, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.pair = nn.Bilinear(D, D, 3)
        self.bare = nn.Bilinear(D, 3, D, bias=False)
        self.sum, self.mean, self.max = (
            nn.EmbeddingBag(V, D, mode=mode, padding_idx=padding)
            for mode, padding in (("sum", None), ("mean", 0), ("max", -1))
        )
        self.slope = nn.PReLU()
        self.slopes = nn.PReLU(T)
        self.body = body

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.body(self, x, ids)


def bilinears(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = m.pair(x, x.tanh())
    return m.bare(m.bare(x, y), m.pair(x[:, :1].expand_as(x), x)) + m.bare(x, y.sin())


def single(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    return m.bare(x[:, 0], m.pair(x[:, 1], x[:, 2])) + F.bilinear(x[:, 0], x[:, 1], m.pair.weight[:1], m.pair.bias[:1])


def bags(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = m.sum(ids) * m.mean(ids) + m.max(ids) + m.sum(ids[:, :2], per_sample_weights=x[:, :2, 0])
    many = m.mean(ids.repeat_interleave(3, 0)).unflatten(0, (-1, 3)).sin()
    padded = m.mean(ids * 0) + m.max(ids * 0 + V - 1) + m.sum.weight[0]
    constant = F.embedding_bag(
        torch.arange(T).expand(len(x), -1), m.sum.weight, per_sample_weights=x[..., 1], mode="sum"
    )
    return y + many.sum(1) + padded + constant + F.embedding_bag(torch.arange(4).view(1, 4), m.mean.weight)


def slopes(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = (
        m.slopes(m.slope(x))
        + m.slope(x[:, 0, 0])[:, None, None]
        + F.prelu(x.flatten(0, 1), m.slope.weight).view(x.shape)
    )
    return y + m.slopes(x[..., None, None] - 0.3).sum((-1, -2)) + m.slopes(x[..., 0])[..., None].prelu(m.slope.weight)


def in_place(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Written to where a linear map of many positions left its output."""
    y = F.linear(x, m.bare.weight[:, :, 0], m.bare.weight[:, 0, 1]).relu_()
    return y + F.linear(x, m.bare.weight[:, :, 1], m.slope.weight.repeat(D)).masked_fill_(x > 0, 0.5)


def few_rows(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """A table shorter than what is looked up in it, such as token types and relative distances."""
    y = F.embedding(ids.repeat(1, 5), m.sum.weight).unflatten(1, (T, 5)).prod(2) + F.embedding(ids, m.mean.weight)
    near = (torch.arange(T)[:, None] - torch.arange(T)) % V
    return y + F.embedding(near, m.sum.weight).prod(0) * x + F.embedding(ids.repeat(1, 3), m.mean.weight)[:, -T:]


BODIES = [in_place, few_rows, bilinears, single, bags, slopes]


def check(body: Body, n: int = N, dtype: torch.dtype = torch.float64, t: int = T) -> None:
    torch.manual_seed(n)
    net, x, ids = Net(body).to(dtype), torch.randn(n, t, D, dtype=dtype), torch.randint(0, V, (n, t))
    loss = lambda x, ids: net(x, ids).square().flatten(1).sum(1)  # noqa: E731
    expected = loop_gradients(net, lambda i: loss(x[i : i + 1], ids[i : i + 1]), n)
    with Tape(net, n) as tape:
        value = loss(x, ids)
    law_exact(tape.backward(value), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n", [1, 2, T, N])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Body, n: int, dtype: torch.dtype) -> None:
    check(body, n, dtype)


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("factors.base", "factors.ghost_norm", "factors.row_sparse", "rules.bilinear"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 40)
    for body in BODIES:
        check(body)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 5), t=st.integers(1, 30), d=st.integers(1, 5), e=st.integers(1, 5), p=st.integers(1, 5))
def test_bilinear_at_any_shape(n: int, t: int, d: int, e: int, p: int) -> None:
    """Both the ghost norm and the instantiated gradient are taken somewhere in this range."""
    torch.manual_seed(n * t + d)
    net = nn.Bilinear(d, e, p).double()
    x, z = torch.randn(n, t, d).double(), torch.randn(n, t, e).double()
    expected = loop_gradients(net, lambda i: net(x[i], z[i]).sin().sum(), n)
    with Tape(net, n) as tape:
        value = net(x, z).sin().sum((1, 2))
    law_exact(tape.backward(value), expected, 1e-10)


@pytest.mark.parametrize("frozen", ["pair.weight", "pair.bias", "bare.weight", "slope.weight", "mean.weight"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    torch.manual_seed(0)
    net = Net(lambda m, x, ids: bags(m, slopes(m, bilinears(m, x, ids), ids), ids)).double()
    net.get_parameter(frozen).requires_grad_(False)
    x, ids = torch.randn(N, T, D).double(), torch.randint(0, V, (N, T))
    expected = loop_gradients(net, lambda i: net(x[i : i + 1], ids[i : i + 1]).square().sum(), N)
    with Tape(net, N) as tape:
        value = net(x, ids).square().flatten(1).sum(1)
    law_exact(tape.backward(value), expected, 1e-10)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: m.sum(ids.flatten(), torch.arange(0, N * T, T)), "embedding_bag on sum.weight .*offsets"),
        (lambda m, x, ids: F.embedding_bag(ids, m.sum.weight, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (lambda m, x, ids: F.embedding_bag(ids, m.sum.weight, max_norm=1.0), "max_norm"),
        (lambda m, x, ids: m.sum(ids, per_sample_weights=m.slopes.weight.expand(N, -1)), "per_sample_weights"),
        (lambda m, x, ids: F.embedding_bag(ids, m.mean.weight, per_sample_weights=x[..., 0]), "mode='mean'"),
        (lambda m, x, ids: m.sum(ids[:3]), "first dimension"),
        (lambda m, x, ids: F.bilinear(x, m.bare.weight[:1, :, :1].mT, m.bare.weight), "bilinear on bare.weight"),
        (
            lambda m, x, ids: F.bilinear(
                x, x, (x[..., None] * m.slope.weight)[:1, 0].expand(1, -1, D), m.pair.bias[:1]
            ),
            "computed from data|first dimension",
        ),
        (lambda m, x, ids: m.slope(x[:3]), "prelu on slope.weight"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    with pytest.raises(UnsupportedOperation, match=named) as caught, Tape(net := Net(body), N):
        net(torch.randn(N, T, D), torch.randint(0, V, (N, T)))
    assert "\n" not in str(caught.value)


def test_mutant_that_drops_products_of_positions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = lambda u: (u.x.square().sum(-1) * u.z.square().sum(-1) * u.back.square().sum(-1)).sum(1)  # noqa: E731
    monkeypatch.setattr(bilinear.BilinearGrad, "sq_norm", terms)
    with pytest.raises(AssertionError):
        check(bilinears)


def test_mutant_that_counts_padding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedding_bag.POOLS, "mean", lambda rows, counts: rows.mean(1))
    with pytest.raises(AssertionError):
        check(bags)


def test_mutant_with_one_slope_for_all_channels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = lambda grad, weight, n: grad.reshape(n, -1).sum(1, keepdim=True).expand(-1, weight.numel())  # noqa: E731
    monkeypatch.setattr(activation, "_by_channel", broken)
    with pytest.raises(AssertionError):
        check(slopes)
