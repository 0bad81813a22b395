"""Examples that are not outermost: time-major, gathered, scattered, sorted. Exact, or refused by name, at every size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.batch_axis import propagate
from tests.oracle import law_exact, loop_gradients

D = 8
Body = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.table = nn.Embedding(11, D)
        self.first, self.last = nn.Linear(D, D), nn.Linear(D, D, bias=False)
        self.norm = nn.LayerNorm(D)
        self.scale = nn.Parameter(torch.rand(D))
        self.experts = nn.Parameter(torch.randn(3, D, D))
        self.layer = nn.TransformerEncoderLayer(D, 2, 12, dropout=0.0)
        self.body = body

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self, ids).flatten(1).square().mean(1)


def work(m: Net, x: Tensor) -> Tensor:
    """Every rule that brings the examples outermost by itself."""
    y = m.norm(m.first(x).tanh()) * m.scale + m.first.bias
    y = F.rms_norm(y @ m.last.weight, (D,), m.scale)
    return torch.addmm(m.first.bias, y.flatten(0, -2), m.last.weight).view(y.shape)


def time_major(m: Net, ids: Tensor) -> Tensor:
    return work(m, m.table(ids.T)).transpose(0, 1)


def time_major_pooled(m: Net, ids: Tensor) -> Tensor:
    h = work(m, m.table(ids).transpose(0, 1))
    return m.first(h.mean(0)) + m.last(h[-1])


def attention(m: Net, ids: Tensor) -> Tensor:
    return m.layer(m.table(ids).transpose(0, 1)).transpose(0, 1)


def flat_by_time(m: Net, ids: Tensor) -> Tensor:
    x = m.table(ids)
    n, t, d = x.shape
    return work(m, x.transpose(0, 1).reshape(n * t, d)).view(t, n, d).transpose(0, 1)


def packed(m: Net, ids: Tensor) -> Tensor:
    mask = ids > 3
    x = m.table(ids)
    return torch.zeros_like(x).masked_scatter(mask[..., None], work(m, x[mask]))


def written_back(m: Net, ids: Tensor) -> Tensor:
    x, rows = m.table(ids).flatten(0, 1), (ids.flatten() > 3).nonzero().flatten()
    y = torch.zeros_like(x)
    y[rows] = work(m, x[rows])
    return work(m, y.index_add(0, rows, work(m, x.index_select(0, rows)))).view(len(ids), -1)


def experts(m: Net, ids: Tensor) -> Tensor:
    x = m.table(ids).flatten(0, 1)
    y = torch.zeros_like(x)
    for e in range(3):
        rows = torch.where(ids.flatten() % 3 == e)[0]
        y.index_add_(0, rows, F.linear(x[rows], m.experts[e]).tanh())
    return m.last(y).view(len(ids), -1)


def grouped(m: Net, ids: Tensor) -> Tensor:
    x = m.table(ids).flatten(0, 1)
    expert, order = torch.sort(ids.flatten() % 3)
    offs = torch.bincount(expert, minlength=3).cumsum(0).to(torch.int32)
    y = F.grouped_mm(x[order], m.experts, offs=offs).tanh()
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return m.last(y[back]).view(len(ids), -1)


def by_length(m: Net, ids: Tensor) -> Tensor:
    order = (ids > 3).sum(1).argsort()
    return work(m, m.table(ids)[order])[order.argsort()]


def two_views(m: Net, ids: Tensor) -> Tensor:
    """Two views of each example, one batch after the other."""
    x = m.table(ids)
    a, b = work(m, torch.cat([x, x.flip(1)])).chunk(2)
    return a * b


def repeated(m: Net, ids: Tensor) -> Tensor:
    x = m.table(ids)
    return (
        work(m, x.repeat(2, 1, 1)).unflatten(0, (2, -1))
        * work(m, x.repeat_interleave(2, 0)).unflatten(0, (-1, 2)).transpose(0, 1)
    ).transpose(0, 1)


BODIES = [time_major, time_major_pooled, attention, flat_by_time, packed, written_back, experts, grouped, by_length]
BODIES += [two_views, repeated]


def law_placed(body: Body, n: int, t: int, dtype: torch.dtype = torch.float64) -> None:
    torch.manual_seed(n * 10 + t)
    m, ids = Net(body).to(dtype), torch.randint(0, 11, (n, t))
    with Tape(m, n) as tape:
        losses = m(ids)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    law_exact(tape.backward(losses), loop_gradients(m, lambda i: m(ids[i : i + 1]), n), tolerance)


@pytest.mark.parametrize(("n", "t"), [(1, 4), (4, 4), (3, 5), (4, 8), (2, 6), (5, 1)])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact_wherever_the_examples_are(body: Body, n: int, t: int) -> None:
    law_placed(body, n, t, torch.float32 if body is grouped else torch.float64)


def recomputed(reentrant: bool, inside: Callable[[Net, Tensor], Tensor]) -> Body:
    return lambda m, ids: checkpoint(lambda x: inside(m, x), m.table(ids), use_reentrant=reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_exact_in_recomputed_layers(reentrant: bool) -> None:
    law_placed(recomputed(reentrant, lambda m, x: work(m, x.transpose(0, 1)).transpose(0, 1)), 3, 5)
    law_placed(recomputed(reentrant, lambda m, x: m.layer(x.transpose(0, 1)).transpose(0, 1)), 4, 4)
    law_placed(recomputed(reentrant, lambda m, x: work(m, x.flip(0)).flip(0) * m.scale.exp()), 3, 5)


def stopped(m: Net, x: Tensor) -> Tensor:
    """The model stops a gradient itself, inside a layer that is recomputed."""
    return m.first(x) * m.scale.detach() + m.scale.exp().detach() * m.last(x) + m.scale


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_stopped_gradient_stays_stopped_in_a_recomputed_layer(reentrant: bool) -> None:
    law_placed(recomputed(reentrant, stopped), 3, 5)


def by_time_steps(m: Net, ids: Tensor) -> Tensor:
    """Written step by step into rows that are time's."""
    x, y = m.table(ids), torch.zeros(ids.shape[1], len(ids), D)
    for t in range(ids.shape[1]):
        y[t] = m.first(x[:, t])
    return m.last(y).transpose(0, 1)


def mixed(m: Net, ids: Tensor) -> Tensor:
    """Tokens of all examples, sorted by what they are: a weight meets rows that are no example's sum."""
    x = m.table(ids)
    return m.last(x.sum(0).expand(len(ids), -1, -1).flatten(0, 1)).view(len(ids), -1)


def transposed_features(m: Net, ids: Tensor) -> Tensor:
    x = m.table(ids)[:, : len(ids)]
    return F.linear(x.permute(1, 2, 0), m.first.weight[:, : len(ids)])


@pytest.mark.parametrize("body", [mixed, transposed_features, by_time_steps], ids=lambda body: body.__name__)
@pytest.mark.parametrize("n", [4, 8])
def test_refused_where_examples_are_mixed(body: Body, n: int) -> None:
    torch.manual_seed(0)
    m = Net(body)
    with pytest.raises(UnsupportedOperation, match=r"linear on (last|first|getitem|__getitem__)") as caught, Tape(m, n):
        m(torch.randint(0, 11, (n, 8)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [flat_by_time, packed, by_length, time_major], ids=lambda body: body.__name__)
def test_mutant_that_takes_what_divides_for_the_examples_is_caught(monkeypatch: pytest.MonkeyPatch, body: Body) -> None:
    monkeypatch.setattr(propagate, "follow", lambda call: None)
    with pytest.raises((AssertionError, UnsupportedOperation, RuntimeError)):
        law_placed(body, 4, 8)
