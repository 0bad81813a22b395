"""Parameter by parameter: what is weighed in backward is what the whole model's gradients would give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dplit.errors import UnsupportedOperation
from dplit.grads.tape import weighing_tape
from dplit.grads.tape.weighing_tape import WeighingTape
from tests.oracle import error, loop_gradients, weighted

N = 4


class Net(nn.Module):
    def __init__(self, body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        self.scale, self.unused = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(2))
        self.body = body

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.body(self, self.table(ids)), self.table.weight).logsumexp(-1).mean(1)


def deep(m: Net, x: Tensor) -> Tensor:
    for layer in m.layers:
        x = layer(x).tanh()
    return x


def reused(m: Net, x: Tensor) -> Tensor:
    return m.layers[0](m.layers[1](m.layers[0](x)).tanh()) * m.scale.exp() + m.scale


def recomputed(m: Net, x: Tensor, reentrant: bool = False) -> Tensor:
    for layer in m.layers:
        x = checkpoint(lambda v, layer=layer: layer(v).tanh(), x, use_reentrant=reentrant)
    return x


def twice_recomputed(m: Net, x: Tensor) -> Tensor:
    for _ in range(2):
        x = checkpoint(lambda v: m.layers[0](v).tanh(), x, use_reentrant=True)
    return x


def clip(name: str, squares: Tensor) -> Tensor:
    return (0.1 / squares.sqrt().clamp_min(1e-12)).clamp(max=1.0)


def law_weighed(body: Callable[[Net, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    m, ids = Net(body).double(), torch.randint(0, 11, (N, 5))
    with WeighingTape(m, N) as tape:
        losses = m(ids)
    weighed = tape.weigh(losses, clip)
    expected = loop_gradients(m, lambda i: m(ids[i : i + 1]), N)
    squares = {name: g.flatten(1).square().sum(1) for name, g in expected.items()}
    sums = {name: weighted({name: g}, clip(name, squares[name]))[name] for name, g in expected.items()}
    assert weighed.sq_norms.keys() == weighed.sums.keys() == expected.keys()
    assert all(torch.allclose(weighed.sq_norms[name], squares[name], rtol=1e-9, atol=1e-12) for name in expected)
    assert error(weighed.sums, sums) <= 1e-10
    assert all(p.grad is None for p in m.parameters())


@pytest.mark.parametrize("body", [deep, reused, recomputed, lambda m, x: recomputed(m, x, True)])
def test_sums_and_norms_are_those_of_the_oracle(body: Callable[[Net, Tensor], Tensor]) -> None:
    law_weighed(body)


def test_gradients_are_let_go_in_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of one layer at a time are waiting, and those of the tied table."""
    most = 0
    honest = WeighingTape.record

    def watched(self: WeighingTape, *args: object) -> None:
        nonlocal most
        honest(self, *args)  # type: ignore[arg-type]
        most = max(most, len(self._recorded))

    monkeypatch.setattr(WeighingTape, "record", watched)
    law_weighed(deep)
    assert most <= 4


def test_a_parameter_used_after_its_end_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match=r"layers\.0\.(weight|bias) is used again"):
        law_weighed(twice_recomputed)


def test_mutant_that_weighs_at_the_first_use_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = weighing_tape.WeighingTape._weigh_when_done

    def early(self: WeighingTape, name: str, *rest: object) -> None:
        tracked = self._tracked[id(self._parameters[name])]
        first = next(i for i, pair in enumerate(self._recorded) if pair[0] is tracked)
        self._recorded = [pair for i, pair in enumerate(self._recorded) if pair[0] is not tracked or i == first]
        honest(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(weighing_tape.WeighingTape, "_weigh_when_done", early)
    with pytest.raises(AssertionError):
        law_weighed(lambda m, x: m.layers[0](m.layers[0](x)))
