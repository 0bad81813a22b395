"""A record whose terms cancel moves the clipped sum by no more than the bound, however its norm was taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dplit.clipping import Flat
from dplit.grads import Tape
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.privacy import Ledger
from dplit.training.step import PrivateStep


class Heads(nn.Module):
    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(heads, width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None] @ self.weight


class Pair(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Bilinear(width, width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x, torch.ones_like(x))


def steps(t: int, width: int) -> Tensor:
    return torch.randn(2, t, width)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int]] = {
    "heads": (lambda: Heads(4, 64), lambda: steps(128, 64), 1),
    "wide heads": (lambda: Heads(2, 256), lambda: steps(256, 256), 1),
    "linear": (lambda: nn.Linear(1024, 1024), lambda: steps(600, 1024), 1),
    "derived": (lambda: weight_norm(nn.Linear(64, 64)), lambda: steps(128, 64), 1),
    "bilinear": (lambda: Pair(16), lambda: steps(256, 16), 1),
    "convolution": (lambda: nn.Conv1d(64, 64, 64, stride=64), lambda: torch.randn(2, 64, 64 * 128), 2),
}


def law_cancelling_is_bounded(name: str, size: float) -> None:
    """Records v then −v at the same output gradients: a true gradient of zero out of terms of this size."""
    torch.manual_seed(0)
    make, data, along = CASES[name]
    module, x = make(), data()
    half = x.shape[along] // 2
    v = size * torch.randn_like(x[:1].narrow(along, 0, half))
    x = torch.cat([x, torch.cat([v, -v], along)])
    sums = []
    for some in (x, x[:-1]):
        step = PrivateStep(
            module, Flat(1.0), noise_multiplier=1e-12, rate=1.0, expected_batch_size=1.0, ledger=Ledger()
        )
        with Tape(module, len(some)) as tape:
            losses = module(some).flatten(1).sum(1)
        step.accumulate(tape.backward(losses))
        step.release()
        sums.append(torch.cat([p.grad.flatten() for p in module.parameters()]).double())
    assert float((sums[0] - sums[1]).norm()) <= 1 + 1e-5


@pytest.mark.parametrize("size", [1.0, 1e4, 1e6, 1e12])
@pytest.mark.parametrize("name", CASES)
def test_cancelling_is_bounded(name: str, size: float) -> None:
    law_cancelling_is_bounded(name, size)


def law_all_linear_maps_are_bounded() -> None:
    for name in ("heads", "wide heads", "linear"):
        for size in (1e6, 1e12):
            law_cancelling_is_bounded(name, size)


def test_mutant_norm_of_what_was_built_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OuterProductGrad, "terms_sq_norm", lambda self: None)
    with pytest.raises(AssertionError):
        law_all_linear_maps_are_bounded()
