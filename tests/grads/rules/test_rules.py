"""Ghost clipping equals per-example clipping, for every way a parameter can be used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.grads import Tape
from dplit.grads.rules import linear
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
VOCABULARY, WIDTH, POSITIONS, EXAMPLES = 13, 8, 6, 5


class Text(nn.Module):
    """Embeds, mixes by `body`, and predicts the next token with a head."""

    def __init__(self, body: Callable[[Text, Tensor, Tensor], Tensor], tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.place = nn.Embedding(POSITIONS + 3, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.shift = nn.Parameter(torch.randn(1, POSITIONS, WIDTH))
        self.number = nn.Parameter(torch.tensor(1.3))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.body = body

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self, self.embed(ids), ids))


def plain(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    return m.norm(m.mix(x).tanh())


def reused(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    return m.mix(m.mix(m.mix(x).tanh()).tanh())


def functional(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    x = F.linear(x, m.embed.weight).tanh()
    return F.layer_norm(F.embedding(ids, m.embed.weight), (WIDTH,), m.scale, m.scale) + x.mean(-1, keepdim=True)


def positions(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    where = torch.arange(ids.shape[1])
    return x + m.place(where) + m.place(where[None]) + m.place(where.expand(ids.shape[0], -1))


def broadcast(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    x = x * m.scale + m.shift - m.number
    return m.scale * x / m.number * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def reversed_operands(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    return m.scale - x.sigmoid() + m.number / (2 + x.sigmoid()) + torch.add(x, m.scale, alpha=0.5)


def in_place(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    y = x * 1.0
    alias = y
    y += m.scale
    y.mul_(m.number)
    return y + alias


def derived(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    return x * m.scale.exp() + m.number.exp() * m.mix(x) + (2 * m.shift).tanh()


def flattened(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    n, t, d = x.shape
    return (m.norm(m.mix(x.reshape(n * t, d))) * m.scale).view(n, t, d)


def many_dimensions(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    return m.norm(m.mix(x[:, :, None, :].expand(-1, -1, 3, -1)) * m.scale).sum(2)


def weight_decay(m: Text, x: Tensor, ids: Tensor) -> Tensor:
    return m.mix(x)


BODIES = [
    plain,
    reused,
    functional,
    positions,
    broadcast,
    reversed_operands,
    in_place,
    derived,
    flattened,
    many_dimensions,
]


def losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean over an example's own unpadded tokens."""
    each = F.cross_entropy(
        model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none", ignore_index=0
    ).view(ids.shape[0], -1)
    return each.sum(1) / (ids[:, 1:] != 0).sum(1).clamp_min(1)


def padded_ids(n: int = EXAMPLES) -> Tensor:
    ids = torch.randint(1, VOCABULARY, (n, POSITIONS))
    for i in range(n):
        ids[i, POSITIONS - i % 4 :] = 0
    return ids


def check(model: nn.Module, ids: Tensor, dtype: torch.dtype, loss: Callable[..., Tensor] = losses) -> None:
    model = model.to(dtype)
    expected = loop_gradients(model, lambda i: loss(model, ids[i : i + 1]), len(ids))
    with Tape(model, len(ids)) as tape:
        value = loss(model, ids)
    law_exact(tape.backward(value), expected, TOLERANCE[dtype])
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Callable[..., Tensor], tied: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    check(Text(body, tied), padded_ids(), dtype)


@pytest.mark.parametrize("frozen", ["embed", "mix", "norm", "scale", "place"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    torch.manual_seed(1)
    model = Text(lambda m, x, ids: positions(m, derived(m, reused(m, x, ids), ids), ids), tied=False)
    getattr(model, frozen).requires_grad_(False)
    check(model, padded_ids(), torch.float64)


@pytest.mark.parametrize("n", [1, 2, POSITIONS])
def test_exact_when_examples_equal_positions(n: int) -> None:
    """As many examples as positions, or one: nothing about the sizes tells the dimensions apart."""
    torch.manual_seed(2)
    check(Text(lambda m, x, ids: broadcast(m, positions(m, x, ids), ids)), padded_ids(n), torch.float64)


def test_exact_when_a_parameter_reaches_the_loss() -> None:
    torch.manual_seed(3)
    check(Text(plain), padded_ids(), torch.float64, lambda m, ids: losses(m, ids) + 0.1 * m.mix.weight.square().sum())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 7), t=st.integers(2, 40), d=st.integers(1, 9), p=st.integers(1, 9))
def test_exact_at_any_shape(n: int, t: int, d: int, p: int) -> None:
    """Both the ghost norm and the instantiated gradient are taken somewhere in this range."""
    torch.manual_seed(n * t + d)
    model = nn.Sequential(nn.Linear(d, p), nn.Tanh(), nn.Linear(p, d), nn.LayerNorm(d))
    x = torch.randn(n, t, d)
    law = lambda m, data: m(data.to(next(m.parameters()).dtype)).square().flatten(1).sum(1)  # noqa: E731
    check(model, x, torch.float64, law)


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    for module in ("factors.ghost_norm", "factors.row_sparse"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 40)
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 40)
    for body in BODIES:
        check(Text(body), padded_ids(), torch.float64)


def test_autocast_norms_are_float32() -> None:
    torch.manual_seed(5)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)), torch.randn(4, 7, 8)
    expected = loop_gradients(model, lambda i: model(x[i : i + 1]).square().flatten(1).sum(1), 4)
    with torch.autocast("cpu", torch.bfloat16), Tape(model, 4) as tape:
        value = model(x).float().square().flatten(1).sum(1)
    gradients = tape.backward(value)
    assert gradients.norms().dtype == torch.float32
    law_exact(gradients, expected, 5e-2)


def test_exact_when_nothing_but_parameters_reaches_the_loss() -> None:
    """Constants only: every example's gradient is led back from its own row of the losses."""
    torch.manual_seed(6)
    model, n = nn.Linear(3, 2).double(), 4
    inputs = torch.arange(n * 3, dtype=torch.float64).view(n, 3) / 7
    expected = loop_gradients(model, lambda i: model(inputs[i : i + 1]).square().sum(1), n)
    with Tape(model, n) as tape:
        value = model(torch.arange(n * 3, dtype=torch.float64).view(n, 3) / 7).square().sum(1)
    law_exact(tape.backward(value), expected, 1e-10)


def test_mutant_that_sums_positions_without_their_products_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(
        linear.OuterProductGrad, "sq_norm", lambda grad: (grad.x.square().sum(-1) * grad.back.square().sum(-1)).sum(1)
    )
    with pytest.raises(AssertionError):
        check(Text(plain), padded_ids(), torch.float64)
