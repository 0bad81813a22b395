"""Learned slopes of `F.prelu`: one for all channels, or one for each."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads.rules import activation
from tests.grads.laws import T, every_dtype, every_size, law_body, law_refused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope, self.slopes = nn.PReLU(), nn.PReLU(T)


def slopes(m: Net, x: Tensor, ids: Tensor) -> Tensor:
    y = (
        m.slopes(m.slope(x))
        + m.slope(x[:, 0, 0])[:, None, None]
        + F.prelu(x.flatten(0, 1), m.slope.weight).view(x.shape)
    )
    return y + m.slopes(x[..., None, None] - 0.3).sum((-1, -2)) + m.slopes(x[..., 0])[..., None].prelu(m.slope.weight)


@every_dtype
@every_size
def test_exact(n: int, dtype: torch.dtype) -> None:
    law_body(Net(), slopes, n, dtype)


@pytest.mark.parametrize("frozen", ["slope.weight", "slopes.weight"])
def test_exact_with_frozen_parameters(frozen: str) -> None:
    net = Net()
    net.get_parameter(frozen).requires_grad_(False)
    law_body(net, slopes)


def test_refused_where_the_examples_are_not_outermost() -> None:
    law_refused(Net(), lambda m, x, ids: m.slope(x.transpose(0, 1)), "prelu on slope.weight")


def test_mutant_with_one_slope_for_all_channels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = lambda grad, weight, n: grad.reshape(n, -1).sum(1, keepdim=True).expand(-1, weight.numel())  # noqa: E731
    monkeypatch.setattr(activation, "_by_channel", broken)
    with pytest.raises(AssertionError):
        law_body(Net(), slopes)
