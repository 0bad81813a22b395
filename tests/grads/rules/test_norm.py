"""Layer norm: exact over one or more trailing dimensions, wherever the examples are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.rules import norm
from tests.grads.laws import Body, D, N, T, every_dtype, every_size, law_body, law_refused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.both, self.bare = nn.LayerNorm(D), nn.LayerNorm((T, D)), nn.LayerNorm(D, bias=False)
        self.batch = nn.BatchNorm1d(T)
        for parameter in (*self.last.parameters(), *self.both.parameters(), *self.bare.parameters()):
            nn.init.normal_(parameter)


def trailing_dimensions(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = m.last(x) * m.both(x.sin()) + m.bare(m.last(x[:, 0]))[:, None]
    return y + m.last(x.flatten(0, 1)).view(x.shape) + F.layer_norm(x, (D,), m.last.bias, m.last.weight)


def time_major(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    return m.last(m.bare(x.transpose(0, 1)).tanh()).transpose(0, 1)


BODIES = [trailing_dimensions, time_major]


@every_dtype
@every_size
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Body, n: int, dtype: torch.dtype) -> None:
    law_body(Net(), body, n, dtype)


@pytest.mark.parametrize("frozen", ["last.weight", "last.bias", "both.bias"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    net = Net()
    net.get_parameter(frozen).requires_grad_(False)
    law_body(net, trailing_dimensions)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: F.layer_norm(x, x.shape, m.last.weight.expand(x.shape)), "couples"),
        (lambda m, x, ids: F.layer_norm(x.transpose(0, 1), (N, D), m.last.weight.expand(N, D)), "couples"),
        (lambda m, x, ids: m.batch(x), "batch_norm on batch.weight .*GroupNorm"),
        (lambda m, x, ids: F.layer_norm(x, (D,), x[0, 0].detach().requires_grad_(), m.last.bias), "computed from data"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    law_refused(Net(), body, named)


def test_mutant_that_forgets_the_mean_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = norm._by_example
    monkeypatch.setattr(norm, "_by_example", lambda back, x, mean, rstd, n: right(back, x, 0 * mean, rstd, n))
    with pytest.raises(AssertionError):
        law_body(Net(), trailing_dimensions)
