"""Exact gradients of parameters beside, among or in place of data: class tokens, mask tokens, weights put together."""

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
from dplit.grads.factors.base import FactoredGrad
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.rules import joining
from dplit.grads.rules.elementwise import broadcast_grad
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
N, T, D, K = 5, 4, 6, 3

Body = Callable[["Net", Tensor, Tensor], Tensor]


class Net(nn.Module):
    """Tokens of every shape and weights to put together."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, D))
        self.row = nn.Parameter(torch.randn(D))
        self.number = nn.Parameter(torch.randn(()))
        self.prompt = nn.Parameter(torch.randn(2, D))
        self.q, self.k, self.v = (nn.Parameter(torch.randn(D, D) / 2) for _ in range(3))
        self.b, self.c = (nn.Parameter(torch.randn(D)) for _ in range(2))
        self.register_buffer("fixed", torch.randn(D, D) / 2)
        self.register_buffer("causal", torch.ones(T, T, dtype=torch.bool).tril())
        self.scale = nn.Parameter(torch.randn(T, T))
        self.body = body

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.body(self, x, mask)


def class_tokens(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    n = x.shape[0]
    first = torch.cat([m.token.expand(n, -1, -1), x], dim=1)
    second = torch.cat((x, m.token.repeat(n, 1, 1), m.prompt[None].expand(n, -1, -1)), 1)
    third = torch.concat([m.row.expand(n, 1, -1), x.tanh(), m.token.tile((n, 2, 1))], dim=-2)
    y = torch.cat([first @ m.q, second, third], 1) @ m.k
    return torch.hstack([y, m.token.squeeze(0).expand(n, 1, D), torch.concatenate([x, x * m.row], axis=1)])


def stacks(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    n = x.shape[0]
    y = torch.stack([x, m.token.expand(n, T, D), m.row.expand(n, T, D)], dim=1).sum(1) @ m.q
    wide = torch.stack((x[:, 0], m.row.repeat(n, 1)), -1).sum(-1)
    return y * wide[:, None] + torch.cat([x[..., :2], m.row[2:].expand(n, T, -1)], dim=2) @ m.k


def windows(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    """Several rows of each example: a token in every window."""
    rows = x.repeat_interleave(K, 0) @ m.q
    y = torch.cat([m.token.expand(len(rows), -1, -1), rows, m.prompt.expand(len(rows), 2, D)], 1).tanh()
    y = y + torch.where(y > 0, m.token.expand(len(rows), 1, D), y * m.token)
    far = torch.arange(float(K)).to(x.dtype).view(K, 1, 1).repeat(x.shape[0], 1, D)
    y = y + m.token.expand(len(rows), 1, D) * y + (m.token + far) - m.token.repeat(len(rows), 1, 1) * y.sin()
    return y.unflatten(0, (-1, K))


def owned(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    """A token used as it is and put before the others, and one derived from another."""
    n = x.shape[0]
    y = torch.cat([m.token.expand(n, -1, -1), x * m.token], 1) + m.token
    return torch.cat([y, (2 * m.row).exp().expand(n, 1, D), torch.zeros(n, 1, D, dtype=x.dtype) + m.token], 1)


def mask_tokens(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    y = torch.where(mask[..., None], m.row, x @ m.q)
    y = y + torch.where(mask[..., None], x.tanh(), m.token) + torch.where(mask[..., None], m.row, m.token)
    y = y.where(~mask[..., None], m.token.expand(x.shape[0], T, D)) + torch.where(x > 0, m.number, 0.5)
    y = y.masked_fill(mask[..., None], m.number) + (x @ m.k).masked_fill_(x > 0.5, m.number)
    y = y + m.token.masked_fill(mask[..., None], 1.5) + torch.where(m.causal[..., None], m.row, y[:, None]).sum(1)
    return y + torch.where(m.causal[:, :1], m.row, m.token) + torch.where(mask[..., None], -1.0, m.token * x)


def scores(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    """Relative biases of a causal model, by constant and by padding masks."""
    bias = torch.where(m.causal, m.scale, -1e4)
    y = (x @ x.mT + bias).softmax(-1) + m.scale.masked_fill(~m.causal, 0)
    return y + m.scale.masked_fill(mask[:, None, :], 0.0)


def written(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    """Mask tokens assigned in place."""
    y, n = x @ m.q, x.shape[0]
    y[mask] = m.row
    z = y.sin()
    z[:, 0] = m.token[:, 0]
    z[:, 1] = m.row.expand(n, -1)
    z[torch.arange(n), mask.long().sum(1) % T] = m.b
    z[..., 2:4] = m.prompt.sum()
    z[:, 2, :2] = m.prompt.T[:2].sum(1)
    z[0:n, -1, 1:3] = m.number
    w = torch.empty(n, T, D, dtype=x.dtype)
    w[:, : T - 1] = x[:, 1:]
    w[:, -1:] = m.token.expand(n, 1, D)
    w[mask, :1] = m.number
    return z + y + w * m.row


def fused(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    """Weights put together before they are applied."""
    y = F.linear(x, torch.cat([m.q, m.k, m.fixed, m.q]), torch.cat([m.b, m.c, m.b, m.c]))
    y = y.view(*x.shape, 4).sum(-1) @ torch.cat((m.q, m.v), dim=1)
    y = y @ torch.vstack([m.k, m.v]) + (x @ torch.hstack([m.q, m.k]))[..., 2 : D + 2]
    y = (y[:, None] @ torch.stack([m.q, m.k, m.fixed, m.q])).sum(1)
    return y + (x[:, None] @ torch.cat([m.q[None], m.k[None], m.v[None]])).sum(1)


def together(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    """Tokens of parameters alone, then for each example."""
    tokens = torch.cat([m.token, m.prompt[None], m.row.view(1, 1, D)], 1)
    y = torch.cat([tokens.expand(x.shape[0], -1, -1), x], 1)
    y = y * torch.stack([m.b, m.c], -1).prod(-1) + y * torch.stack([m.b, m.c])[1]
    both = torch.cat([m.token.expand(x.shape[0], 1, D), m.prompt.expand(x.shape[0], 2, D)], 1)
    deep = torch.stack([m.row.expand(x.shape[0], D), m.b.expand(x.shape[0], D)], 1)
    heads = torch.cat([m.q.view(2, 3, D), m.k.view(2, 3, D)], 1)
    y = y.sum(1, keepdim=True) + x * both[:, :1] + torch.cat([x, both, deep], 1)[:, -1:]
    return y + (x[:, None] @ heads.mT).sum((1, 3))[..., None] + x @ torch.hstack([m.q, m.k])[:, 2 : D + 2]


def mixtures(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    y = torch.lerp(x, m.row, 0.3) + torch.lerp(x, x.tanh(), m.row) + x.lerp(m.token, m.row)
    return y + torch.addcmul(x, x, m.row, value=0.5) + torch.addcmul(m.row, m.token, x.sin())


def shifted(m: Net, x: Tensor, mask: Tensor) -> Tensor:
    """A parameter plus constants, one of them with rows for each example, before it meets data."""
    n = x.shape[0]
    far = torch.arange(float(T)).to(x.dtype).view(1, T, 1).expand(n, T, D)
    y = x @ (m.q + m.fixed) + x @ (m.fixed + m.k) - torch.sub(m.row, 1.0) * x + (m.token + far) + (far + m.row) * x
    y = y + x @ (m.q + m.q) + x * (m.fixed[0] - m.row) + x * torch.add(m.row, m.fixed[1], alpha=2) + x * (1 - m.row)
    return y + torch.cat([x, far + m.token], 1)[:, T:] + x * (m.row + m.fixed).sum(0) + x * (m.number + m.fixed[0])


BODIES = [shifted, class_tokens, stacks, windows, owned, mask_tokens, scores, written, fused, together, mixtures]


def record(body: Body, n: int = N, dtype: torch.dtype = torch.float64) -> dict[str, list[FactoredGrad]]:
    torch.manual_seed(n)
    net, x, mask = Net(body).to(dtype), torch.randn(n, T, D, dtype=dtype), torch.rand(n, T) > 0.5
    loss = lambda x, mask: net(x, mask).square().flatten(1).sum(1)  # noqa: E731
    expected = loop_gradients(net, lambda i: loss(x[i : i + 1], mask[i : i + 1]), n)
    with Tape(net, n) as tape:
        value = loss(x, mask)
    gradients = tape.backward(value)
    law_exact(gradients, expected, TOLERANCE[dtype])
    return gradients.factors  # type: ignore[return-value]


def law_joined(*bodies: Body) -> None:
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
    law_joined(*BODIES)


@pytest.mark.parametrize("body", [class_tokens, stacks, windows, written, fused], ids=lambda body: body.__name__)
def test_joining_costs_no_backward_of_its_own(body: Body) -> None:
    assert VjpGrad not in {type(grad) for name, found in record(body).items() if name != "prompt" for grad in found}


@pytest.mark.parametrize("frozen", ["token", "row", "q", "b"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    torch.manual_seed(0)
    net = Net(lambda m, x, mask: fused(m, written(m, mask_tokens(m, x, mask), mask), mask)).double()
    getattr(net, frozen).requires_grad_(False)
    x, mask = torch.randn(N, T, D).double(), torch.rand(N, T) > 0.5
    expected = loop_gradients(net, lambda i: net(x[i : i + 1], mask[i : i + 1]).square().sum(), N)
    with Tape(net, N) as tape:
        value = net(x, mask).square().flatten(1).sum(1)
    law_exact(tape.backward(value), expected, 1e-10)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_exact_for_tokens_of_any_shape(data: st.DataObject) -> None:
    """What `torch.where` and an assignment broadcast, whatever has size 1 or n."""
    n, t = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    shape = (n, t, 2)
    own = [1, *(data.draw(st.sampled_from([1, size])) for size in shape[1:])][data.draw(st.integers(0, 2)) :]
    torch.manual_seed(n)
    net = nn.ParameterDict({name: nn.Parameter(torch.randn(s).double()) for name, s in (("p", own), ("q", (2, 3)))})
    x, mask = torch.randn(shape).double(), torch.rand(shape) > 0.5
    cut = data.draw(st.integers(0, t - 1)) if own[-2:-1] in ([], [1]) else 0

    def loss(x: Tensor, mask: Tensor) -> Tensor:
        written = x.sin()
        written[:, cut:] = net["p"]
        return (torch.where(mask, net["p"], x).square() + written.square() * x).sum((1, 2)) + (x @ net["q"]).sum((1, 2))

    expected = loop_gradients(net, lambda i: loss(x[i : i + 1], mask[i : i + 1]), n)
    with Tape(net, n) as tape:
        value = loss(x, mask)
    law_exact(tape.backward(value), expected, 1e-10)


def test_a_row_for_each_example() -> None:
    """As many rows as examples: example i meets row i alone."""
    torch.manual_seed(1)
    net = nn.ParameterDict({"p": nn.Parameter(torch.randn(N, 1, D).double())})
    x, mask = torch.randn(N, T, D).double(), torch.rand(N, T, D) > 0.5

    def loss(x: Tensor, mask: Tensor, p: Tensor) -> Tensor:
        y = torch.cat([p, x], 1).square().sum((1, 2)) + torch.where(mask, p, x).square().sum((1, 2))
        z = x.sin()
        z[:, :1] = p
        return y + (z * z * x).sum((1, 2))

    part = lambda i: slice(i, i + 1)  # noqa: E731
    expected = loop_gradients(net, lambda i: loss(x[part(i)], mask[part(i)], net["p"][part(i)]), N)
    with Tape(net, N) as tape:
        value = loss(x, mask, net["p"])
    law_exact(tape.backward(value), expected, 1e-10)


def test_autocast() -> None:
    torch.manual_seed(2)
    net, x, mask = Net(class_tokens), torch.randn(N, T, D), torch.rand(N, T) > 0.5
    expected = loop_gradients(net, lambda i: net(x[i : i + 1], mask[i : i + 1]).tanh().sum(), N)
    with torch.autocast("cpu", torch.bfloat16), Tape(net, N) as tape:
        value = net(x, mask).float().tanh().flatten(1).sum(1)
    gradients = tape.backward(value)
    assert gradients.norms().dtype == torch.float32
    law_exact(gradients, expected, 5e-2)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, mask: torch.cat([x[:, 0], m.q]), "cat on q .* dimension 0"),
        (lambda m, x, mask: torch.stack([x[:, 0], m.row.expand(N, D)]), "stack on .*row.* dimension 0"),
        (lambda m, x, mask: torch.cat([x, m.token.expand(N, 1, D)], 1, out=torch.empty(0)), "out="),
        (lambda m, x, mask: torch.cat([m.token.expand(7, 1, D), x[:1].expand(7, -1, -1)], 1), "first dimension"),
        (lambda m, x, mask: torch.where(mask[0], m.scale, x[:, :, :T]), "where on scale"),
        (lambda m, x, mask: torch.where(x[:, 0] > 0, m.token.expand(3, N, D), 0.0), "outermost"),
        (lambda m, x, mask: x[0].copy_(m.row), "row"),
        (lambda m, x, mask: m.q.__setitem__(0, x[0, 0]), "__setitem__ on q"),
        (lambda m, x, mask: torch.zeros(N, D).__setitem__(0, m.row), "constant"),
        (lambda m, x, mask: torch.zeros(N, D).masked_fill_(x[:, 0] > 0, m.number), "constant"),
        (lambda m, x, mask: x[:3].clone().__setitem__(0, m.row), "first dimension"),
        (lambda m, x, mask: x.masked_scatter(mask[..., None], m.q.repeat(9, 1)), "masked_scatter"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    with pytest.raises(UnsupportedOperation, match=named) as caught, Tape(net := Net(body), N):
        net(torch.randn(N, T, D), torch.rand(N, T) > 0.5)
    assert "\n" not in str(caught.value)


def test_mutant_that_shares_tokens_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows of each example taken for one."""
    broken = lambda grad, shape, n: broadcast_grad(grad[:n], grad[:n].shape, n)  # noqa: E731
    monkeypatch.setattr(joining, "broadcast_grad", broken)
    with pytest.raises((AssertionError, RuntimeError)):
        law_joined(windows)


def test_mutant_that_forgets_the_mask_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    where = torch.where
    monkeypatch.setattr(joining.torch, "where", lambda c, a, b: a if isinstance(b, int) else where(c, a, b))
    with pytest.raises(AssertionError):
        law_joined(mask_tokens)


def test_mutant_that_credits_assignments_to_one_example_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    put_grad = joining._put_grad
    monkeypatch.setattr(joining, "_put_grad", lambda grad, index, shape, n: put_grad(grad.flip(0), index, shape, n))
    with pytest.raises(AssertionError):
        law_joined(written)


def test_mutant_that_shifts_the_parts_of_a_fused_weight_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    narrowed = joining._narrowed
    monkeypatch.setattr(joining, "_narrowed", lambda u, g, d, start, length: narrowed(u, g, d, 0, length))
    with pytest.raises(AssertionError):
        law_joined(fused)
