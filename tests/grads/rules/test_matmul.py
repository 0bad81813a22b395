"""Exact gradients of matrix products written out: `@`, `torch.addmm`, `torch.einsum`, and transposes of a parameter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.rules import matmul
from dplit.grads.tape.registry import VJP_RULES
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
N, T, D, H = 5, 4, 6, 2


class Net(nn.Module):
    """Parameters of every shape a product can take, and a body that applies some."""

    def __init__(self, body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(D, D) / 2)
        self.b = nn.Parameter(torch.randn(D))
        self.mix = nn.Parameter(torch.randn(T, T) / 2)
        self.heads = nn.Parameter(torch.randn(H, D, D) / 2)
        self.split = nn.Parameter(torch.randn(H, D // H, D) / 2)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def right(m: Net, x: Tensor) -> Tensor:
    return torch.matmul(x @ m.w, m.w).tanh().matmul(m.w)


def left(m: Net, x: Tensor) -> Tensor:
    return m.mix @ torch.matmul(m.mix, x).tanh()


def both_sides(m: Net, x: Tensor) -> Tensor:
    return (m.w @ (x @ m.w).mT).tanh().mT


def vectors(m: Net, x: Tensor) -> Tensor:
    return (x @ m.b).tanh() + m.b @ x.mT + (x[:, 0] @ m.b)[:, None]


def flat(m: Net, x: Tensor) -> Tensor:
    rows = x.reshape(-1, D)
    y = torch.mm(rows, m.w) + rows.mv(m.b)[:, None] + torch.mv(rows, m.b)[:, None]
    return y.view(x.shape)


def conv1d(m: Net, x: Tensor) -> Tensor:
    """Hugging Face's Conv1D, twice."""
    y = torch.addmm(m.b, x.reshape(-1, D), m.w).tanh()
    return torch.addmm(m.b, y, m.w).view(x.shape)


def addmm_forms(m: Net, x: Tensor) -> Tensor:
    rows = x.reshape(-1, D)
    y = torch.addmm(m.b, rows, m.w, beta=0.5, alpha=2) + torch.addmm(rows, rows, m.w)
    return (y + torch.addmm(input=m.b, mat1=rows, mat2=m.w)).view(x.shape)


def transposes(m: Net, x: Tensor) -> Tensor:
    y = x @ m.w.T + F.linear(x, m.w.T) + x @ m.w.mT.t() + x @ torch.transpose(m.w, 0, 1)
    return y.tanh() @ m.w.permute(1, 0) + torch.addmm(m.b, x.reshape(-1, D), m.w.t()).view(x.shape)


def views_and_copies(m: Net, x: Tensor) -> Tensor:
    y = x @ m.w.contiguous() @ m.w.clone().to(m.w.dtype) + x * m.b.view(1, D) + x * m.b[None].squeeze(0)
    return y @ m.w.view(D, 2, 3).reshape(D, D) + x * m.w.view(-1)[:D] + x[..., :4] @ m.w.view(4, 9)[:, :D]


def reshaped_twice(m: Net, x: Tensor) -> Tensor:
    y = x[..., :4] @ m.w.view(4, 9)
    return y[..., :D] + x[..., :4].tanh() @ m.w.view(4, 9)[:, :D] + (x[..., 1:5] @ m.w.view(4, 9))[..., :D] + x @ m.w


def heads(m: Net, x: Tensor) -> Tensor:
    y = (x[:, None] @ m.heads).tanh()
    return ((m.heads @ y.mT).mT + y @ m.heads.mT + y @ m.heads).sum(1)


def einsums(m: Net, x: Tensor) -> Tensor:
    y = torch.einsum("btd,dp->btp", x, m.w) + torch.einsum("pd,bt d->b t p", m.w, x)
    z = torch.einsum("bthc,hcd->btd", y.unflatten(-1, (H, D // H)), m.split)
    u = torch.einsum("...d,hdp->...hp", z, m.heads)
    v = torch.einsum("bthd,hdp->bthp", u.tanh(), m.heads) + torch.einsum("bthd,hpd->bthp", u, m.heads)
    return torch.einsum("bthd,d->bth", [v, m.b]).sum(-1) + torch.einsum("btd,st->bsd", z, m.mix).sum(-1)


def spread(m: Net, x: Tensor) -> Tensor:
    """A start row repeated for each example, once as data of each and once broadcast."""
    start = m.b.view(1, 1, D).expand(x.shape[0], 1, D)
    return (x * start) @ m.w + x * m.b.expand(T, D) + start * x


BODIES = [
    right,
    left,
    both_sides,
    vectors,
    flat,
    conv1d,
    addmm_forms,
    transposes,
    views_and_copies,
    reshaped_twice,
    heads,
    einsums,
    spread,
]


def check(body: Callable[[Net, Tensor], Tensor], n: int = N, dtype: torch.dtype = torch.float64, t: int = T) -> Tape:
    torch.manual_seed(n)
    net, x = Net(body).to(dtype), torch.randn(n, t, D, dtype=dtype)
    loss = lambda x: net(x).square().flatten(1).sum(1)  # noqa: E731
    expected = loop_gradients(net, lambda i: loss(x[i : i + 1]), n)
    with Tape(net, n) as tape:
        value = loss(x)
    law_exact(tape.backward(value), expected, TOLERANCE[dtype])
    return tape


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n", [1, 2, T, N])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Callable[[Net, Tensor], Tensor], n: int, dtype: torch.dtype) -> None:
    check(body, n, dtype)


@pytest.mark.parametrize("t", [1, 3, 30])
def test_exact_at_other_lengths(t: int) -> None:
    """The ghost norm and the instantiated gradient are each taken."""
    for body in (right, both_sides, conv1d, transposes, heads):
        check(body, N, t=t)


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.grads.factors.ghost_norm.MAX_INSTANTIATED", 40)
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 40)
    for body in BODIES:
        check(body)


@pytest.mark.parametrize("frozen", ["w", "b", "mix", "heads", "split"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    torch.manual_seed(0)
    net = Net(lambda m, x: conv1d(m, addmm_forms(m, left(m, right(m, x)))) + einsums(m, x)[..., None])
    getattr(net.double(), frozen).requires_grad_(False)
    x = torch.randn(N, T, D, dtype=torch.float64)
    expected = loop_gradients(net, lambda i: net(x[i : i + 1]).square().sum(), N)
    with Tape(net, N) as tape:
        value = net(x).square().flatten(1).sum(1)
    law_exact(tape.backward(value), expected, 1e-10)


def test_a_matrix_for_each_example() -> None:
    """As many matrices as examples: example i meets matrix i alone, and its gradient is zero elsewhere."""
    torch.manual_seed(1)
    model = nn.ParameterDict({"w": nn.Parameter(torch.randn(N, D, D).double())})
    x = torch.randn(N, T, D).double()
    one = lambda i: torch.bmm(x[i : i + 1], model["w"][i : i + 1]).square().sum()  # noqa: E731
    expected = loop_gradients(model, one, N)
    with Tape(model, N) as tape:
        value = torch.bmm(x, model["w"]).square().sum((1, 2))
    law_exact(tape.backward(value), expected, 1e-10)


@pytest.mark.parametrize("body", [transposes, right, left, conv1d, heads])
def test_transposes_cost_no_backward_of_their_own(body: Callable[[Net, Tensor], Tensor]) -> None:
    tape = check(body)
    kinds = {type(grad) for tracked, recorded in tape._recorded for _, grad in tracked.pull_back(recorded)}
    assert VjpGrad not in kinds


def test_autocast() -> None:
    torch.manual_seed(2)
    net, x = Net(lambda m, x: conv1d(m, right(m, left(m, x)))), torch.randn(N, T, D)
    expected = loop_gradients(net, lambda i: net(x[i : i + 1]).tanh().sum(), N)
    with torch.autocast("cpu", torch.bfloat16), Tape(net, N) as tape:
        value = net(x).float().tanh().flatten(1).sum(1)
    gradients = tape.backward(value)
    assert gradients.norms().dtype == torch.float32
    law_exact(gradients, expected, 5e-2)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.w @ x[:, 0, :].T,
        lambda m, x: x[:, 0, 0] @ m.w[: x.shape[0]],
        lambda m, x: x[:, 0, :] @ m.heads,
        lambda m, x: m.heads @ x[:, 0, :].mT,
        lambda m, x: torch.bmm(x.transpose(0, 1)[:H], m.heads),
        lambda m, x: torch.einsum("btd,bd->bt", x, m.w[: x.shape[0]]),
        lambda m, x: torch.einsum("bthd,d->bt", x[:, :, None], m.b),
        lambda m, x: torch.einsum("btd,dp->tbp", x, m.w),
        lambda m, x: torch.einsum("btd,dp", x, m.w),
        lambda m, x: torch.einsum("btd,dp,pq->btq", x, m.w, m.w),
        lambda m, x: torch.addmm(m.w, x[:, 0, :].T, x[:, 0, :]),
    ],
    ids=[
        "contracts",
        "vector",
        "leading",
        "heads_left",
        "heads_outermost",
        "shared",
        "summed_alone",
        "moved",
        "implicit",
        "three",
        "summed",
    ],
)
def test_refused(body: Callable[[Net, Tensor], Tensor]) -> None:
    net = Net(body)
    with pytest.raises(UnsupportedOperation) as caught, Tape(net, N):
        net(torch.randn(N, T, D))
    assert "\n" not in str(caught.value)


def test_mutant_that_forgets_to_exchange_roles_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """D is square here: only the numbers tell W from its transpose."""
    monkeypatch.setattr("dplit.grads.tape.tracked.VJP_RULES", dict.fromkeys(VJP_RULES, lambda derived, grad: grad))
    with pytest.raises(AssertionError):
        check(transposes)


def test_mutant_that_drops_products_of_positions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        matmul.BatchedOuterProductGrad,
        "sq_norm",
        lambda u: (u.x.square().sum(-1) * u.back.square().sum(-1)).sum((1, 2)),
    )
    with pytest.raises(AssertionError):
        check(heads)
