"""Examples sent to one of two layers: exact for every layer, whichever examples it gets, and where it gets none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.grads import Tape
from dplit.grads.batch_axis.axes import RowOwners
from tests.oracle import law_exact, loop_gradients

C = 4
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


class Scaled(nn.Module):
    """Operations of tensors in place of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(C)), nn.Parameter(torch.randn(C))
        self.mix = nn.Parameter(torch.randn(C, C))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale + self.shift
        return torch.addmm(self.shift, y, self.mix) @ self.mix.T / self.scale.exp()


class LookedUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.table((x[:, 0] * 3).long() % 9) * x[:, 1:2]


def images(*layers: nn.Module) -> Callable[[], nn.Module]:
    """Layers on `(n, C, 3, 2)`."""
    return lambda: nn.Sequential(
        nn.Linear(C, 6 * C), nn.Unflatten(1, (C, 3, 2)), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(C, C),
    "layer_norm": lambda: nn.Sequential(nn.Linear(C, C, bias=False), nn.LayerNorm(C)),
    "rms_norm": lambda: nn.Sequential(nn.RMSNorm(C, eps=1e-3), nn.Linear(C, C)),
    "conv": images(nn.Conv2d(C, C, 2, padding="same")),
    "transposed": images(nn.ConvTranspose2d(C, C, 2, stride=2)),
    "group_norm": images(nn.Conv2d(C, C, 1), nn.GroupNorm(2, C)),
    "prelu": images(nn.PReLU(C), nn.PReLU()),
    "operations": Scaled,
    "embedding": LookedUp,
}


class Routed(nn.Module):
    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.left, self.right = layer(), layer()

    def forward(self, x: Tensor, left: Tensor) -> Tensor:
        out = x.new_zeros(len(x), C)
        out[left] = self.left(x[left])
        out[~left] = self.right(x[~left])
        return out.tanh()


def law_routed(layer: str, left: list[bool], seed: int = 0) -> None:
    torch.manual_seed(seed)
    n, mask = len(left), torch.tensor(left)
    module, x = Routed(LAYERS[layer]).double(), torch.randn(n, C).double()
    loss = lambda x, mask: module(x, mask).square().sum(1)  # noqa: E731
    expected = loop_gradients(module, lambda i: loss(x[i : i + 1], mask[i : i + 1]), n)
    with Tape(module, n) as tape:
        losses = loss(x, mask)
    law_exact(tape.backward(losses), expected, 1e-10)


@pytest.mark.parametrize("layer", LAYERS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(left=st.lists(st.booleans(), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_exact(layer: str, left: list[bool], seed: int) -> None:
    law_routed(layer, left, seed)


@pytest.mark.parametrize("left", [[True], [False] * 5], ids=["one", "all"])
@pytest.mark.parametrize("layer", LAYERS)
def test_exact_where_a_layer_gets_no_example(layer: str, left: list[bool]) -> None:
    law_routed(layer, left)


def test_no_rows_give_no_gradient() -> None:
    """Also where the result of nothing reaches every loss."""
    module, x = Routed(LAYERS["linear"]), torch.randn(3, C)
    with Tape(module, 3) as tape:
        losses = module.left(x).sum(1) + module.right(x[x[:, 0] > 1e9]).sum()
    norms = tape.backward(losses).sq_norms()
    assert norms["right.weight"].abs().max() == 0 < norms["left.weight"].min()


MIXED = [True, False, False, True, False]


def test_mutant_that_gives_gradients_to_other_examples_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = RowOwners.outermost, RowOwners.restored
    monkeypatch.setattr(RowOwners, "outermost", lambda self, x: honest[0](self, x).flip(0))
    monkeypatch.setattr(RowOwners, "restored", lambda self, y: honest[1](self, y.flip(0)))
    with pytest.raises(AssertionError):
        law_routed("conv", MIXED)


def test_mutant_that_drops_what_has_numbers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation may only pass without its rule if its result is empty."""
    monkeypatch.setattr(
        Tape, "_apply_to_no_rows", lambda self, func, args, kwargs, given: (True, func(*args, **kwargs))
    )

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 2, C))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.token.expand(len(x), -1, -1), x[:, :0]], 1)

    module, x = Joined(), torch.randn(3, 2, C)
    with Tape(module, 3) as tape:
        losses = module(x).square().sum((1, 2))
    with pytest.raises((AssertionError, RuntimeError)):
        law_exact(tape.backward(losses), loop_gradients(module, lambda i: module(x[i : i + 1]).square().sum(), 3), 1e-4)
