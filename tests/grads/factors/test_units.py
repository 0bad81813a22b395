"""Gradients of units, each of several examples, equal the means of their examples'."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dplit.errors import ConfigurationError
from dplit.grads import Tape
from dplit.grads.factors.units import Units
from tests.oracle import law_exact, loop_gradients

N, T, V, D = 7, 5, 11, 6
OF = [2, 0, 2, 1, 0, 2, 3]


class Tied(nn.Module):
    """A table, positions, a norm, attention, and a head tied to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(V, D), nn.Embedding(T, D)
        self.norm, self.mix = nn.LayerNorm(D), nn.MultiheadAttention(D, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.table(ids) + self.places(torch.arange(T))
        h = h + self.mix(self.norm(h), h, h, need_weights=False)[0] * self.scale
        return F.cross_entropy(F.linear(h, self.table.weight).mT, ids.roll(1, 1), reduction="none").mean(1)


class Images(nn.Module):
    """Convolutions with and without groups, a group norm, and a head whose weight is derived."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=2, padding="same")
        self.norm, self.head = nn.GroupNorm(2, 4), weight_norm(nn.Linear(4 * 9, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.second(torch.tanh(self.first(x))))
        return F.cross_entropy(self.head(h.flatten(1)), torch.arange(len(x)) % 3, reduction="none")


class Sliced(nn.Module):
    """One matrix used twice, whole and in part, and long inputs whose gradients are dearer to build than to compare."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D, D))
        self.bilinear = nn.Bilinear(D, D, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x @ self.weight)
        h = h + F.pad(F.linear(h[..., :3], self.weight[:, :3]), (0, 0))
        return self.bilinear(h, x).square().mean((1, 2))


def ids() -> Tensor:
    return torch.randint(0, V, (N, T))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "text": (Tied, ids),
    "images": (Images, lambda: torch.randn(N, 2, 5, 5)),
    "sliced": (Sliced, lambda: torch.randn(N, T, D)),
    "table": (
        lambda: nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)),
        lambda: torch.randn(N, D),
    ),
}


def labels_of(module: nn.Module, x: Tensor, i: int) -> Tensor:
    if isinstance(module, Images):
        h = module.norm(module.second(torch.tanh(module.first(x[i : i + 1]))))
        return F.cross_entropy(module.head(h.flatten(1)), torch.tensor([i % 3]), reduction="none")
    return module(x[i : i + 1])


def law_units(name: str, of: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, data = CASES[name]
    module, x, units = make().to(dtype), data(), Units(torch.tensor(of), max(of) + 1)
    x = x.to(dtype) if x.is_floating_point() else x
    each = loop_gradients(module, lambda i: labels_of(module, x, i), N)
    expected = {key: units.means(grads.double()) for key, grads in each.items()}
    with Tape(module, N) as tape:
        losses = module(x)
    law_exact(tape.backward(losses).averaged(units), expected, 1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "of", [OF, [0] * N, list(range(N)), [3, 2, 1, 0, 0, 1, 2]], ids=["mixed", "one", "own", "pairs"]
)
@pytest.mark.parametrize("name", CASES)
def test_units_are_the_means_of_their_examples(name: str, of: list[int], dtype: torch.dtype) -> None:
    law_units(name, of, dtype)


def test_in_small_runs_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 50)
    for name in CASES:
        law_units(name, OF, torch.float64)


def test_mutant_norms_added_without_their_cross_terms_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """‖Σgᵢ/k‖² taken for Σ‖gᵢ‖²/k."""
    from dplit.grads.per_example import PerExample

    honest = PerExample.averaged

    def averaged(self: PerExample, units: Units) -> PerExample:
        averages = honest(self, units)
        averages._sq_norms = {name: units.means(squares) for name, squares in self.sq_norms().items()}
        return averages

    monkeypatch.setattr(PerExample, "averaged", averaged)
    with pytest.raises(AssertionError):
        law_units("text", OF, torch.float64)


@pytest.mark.parametrize("of", [[0, 2], [0, 5]])
def test_every_unit_has_an_example(of: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="at least one example"):
        Units(torch.tensor(of), 3)
