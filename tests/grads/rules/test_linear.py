"""Linear maps: any number of leading dimensions, shared weights, derived biases, and outputs that are written to in place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.rules import linear
from tests.grads.laws import Body, D, every_dtype, every_size, law_body, law_refused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(D, D), nn.Linear(D, D, bias=False)
        self.number = nn.Linear(D, 1)
        self.slope = nn.Parameter(torch.rand(1))


def in_place(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    """Written to where a linear map of many positions left its output."""
    y = F.linear(x, m.last.weight, m.first.bias).relu_()
    return y + F.linear(x, m.first.weight, m.slope.repeat(D)).masked_fill_(x > 0, 0.5)


def any_leading_dimensions(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = m.first(x[:, 0])[:, None] + m.first(x[:, :, None].expand(-1, -1, 3, -1)).tanh().sum(2)
    return y + m.last(x.flatten(0, 1)).view(x.shape) + m.number(x) * F.linear(x, m.number.weight, m.slope)


def the_bias_alone(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    return F.linear(x, torch.ones(D, D).to(x.dtype), m.first.bias) * m.last(x)


BODIES = [in_place, any_leading_dimensions, the_bias_alone]


@every_dtype
@every_size
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_exact(body: Body, n: int, dtype: torch.dtype) -> None:
    law_body(Net(), body, n, dtype)


@pytest.mark.parametrize("frozen", ["first.weight", "first.bias", "last.weight"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    net = Net()
    net.get_parameter(frozen).requires_grad_(False)
    for body in BODIES:
        law_body(net, body)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: m.first(x.mean(0)), "linear on first.weight .*first dimension"),
        (lambda m, x, ids: F.linear(x, m.first(x)[0, 0].expand(D, D), m.first.bias), "computed from data"),
        (lambda m, x, ids: F.linear(x[:, :D, 0].T.contiguous(), m.first.weight[:, :5]), "linear on .*the examples"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    law_refused(Net(), body, named)


def test_mutant_that_records_the_bias_of_one_position_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = linear.record_linear
    cut = lambda tape, weight, bias, x, back: right(tape, None, bias, None, back[:, :1])  # noqa: E731
    monkeypatch.setattr(linear, "record_linear", lambda *args: (right(*args[:2], None, *args[3:]), cut(*args)))
    with pytest.raises(AssertionError):
        law_body(Net(), the_bias_alone)
