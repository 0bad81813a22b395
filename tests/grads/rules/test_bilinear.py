"""Bilinear maps: exact at every shape, refused where the examples are not outermost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.grads import Tape
from dplit.grads.rules import bilinear
from tests.grads.laws import Body, D, every_dtype, every_size, law_body, law_refused
from tests.oracle import law_exact, loop_gradients


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(D, D, 3)
        self.bare = nn.Bilinear(D, 3, D, bias=False)
        self.slope = nn.Parameter(torch.rand(1))


def bilinears(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = m.pair(x, x.tanh())
    return m.bare(m.bare(x, y), m.pair(x[:, :1].expand_as(x), x)) + m.bare(x, y.sin())


def single(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    return m.bare(x[:, 0], m.pair(x[:, 1], x[:, 2])) + F.bilinear(x[:, 0], x[:, 1], m.pair.weight[:1], m.pair.bias[:1])


BODIES = [bilinears, single]


@every_dtype
@every_size
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Body, n: int, dtype: torch.dtype) -> None:
    law_body(Net(), body, n, dtype)


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("factors.base", "factors.ghost_norm", "rules.bilinear"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 40)
    for body in BODIES:
        law_body(Net(), body)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 5), t=st.integers(1, 30), d=st.integers(1, 5), e=st.integers(1, 5), p=st.integers(1, 5))
def test_exact_at_any_shape(n: int, t: int, d: int, e: int, p: int) -> None:
    """Both the ghost norm and the built gradient are used somewhere in this range."""
    torch.manual_seed(n * t + d)
    net = nn.Bilinear(d, e, p).double()
    x, z = torch.randn(n, t, d).double(), torch.randn(n, t, e).double()
    expected = loop_gradients(net, lambda i: net(x[i], z[i]).sin().sum(), n)
    with Tape(net, n) as tape:
        value = net(x, z).sin().sum((1, 2))
    law_exact(tape.backward(value), expected, 1e-10)


@pytest.mark.parametrize("frozen", ["pair.weight", "pair.bias", "bare.weight"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    net = Net()
    net.get_parameter(frozen).requires_grad_(False)
    law_body(net, bilinears)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: F.bilinear(x, m.bare.weight[:1, :, :1].mT, m.bare.weight), "bilinear on bare.weight"),
        (
            lambda m, x, ids: F.bilinear(x, x, (x[..., None] * m.slope)[:1, 0].expand(1, -1, D), m.pair.bias[:1]),
            "computed from data|first dimension",
        ),
    ],
)
def test_refused(body: Body, named: str) -> None:
    law_refused(Net(), body, named)


def test_mutant_that_drops_products_of_positions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = lambda u: (u.x.square().sum(-1) * u.z.square().sum(-1) * u.back.square().sum(-1)).sum(1)  # noqa: E731
    monkeypatch.setattr(bilinear.BilinearGrad, "sq_norm", terms)
    with pytest.raises(AssertionError):
        law_body(Net(), bilinears)
