"""Norms and sums are of full float32 products, whatever a process lets the model's own products be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.grads import Tape, per_example
from dplit.grads.coupling.probe import probe
from dplit.grads.factors.base import DenseGrad
from dplit.grads.factors.units import Units
from dplit.grads.precision import full_precision, rounding_settings
from dplit.grads.tape import tape

BODIES = {
    "few positions": (nn.Linear(96, 80), (16, 8, 96)),
    "many positions": (nn.Linear(64, 48), (8, 256, 64)),
    "a convolution": (nn.Conv2d(16, 24, 3), (8, 16, 20, 20)),
}


@contextmanager
def set_to(precision: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def rounds() -> bool:
    """Whether this machine has narrow products at all."""
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    with set_to("medium"):
        rounded = x @ x
    return float((rounded - x @ x).norm() / (x @ x).norm()) > 1e-4


def law_norms_and_sums_are_of_full_products(kind: str) -> None:
    """The loss is linear in the output, so that no rounding of the model's own reaches a gradient."""
    module, shape = BODIES[kind]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    c = torch.randn(module(x).shape, generator=generator)
    weights = torch.rand(len(x), generator=generator)
    with set_to("medium"):
        with Tape(module, len(x)) as tape:
            losses = (module(x) * c).flatten(1).sum(1)
        recorded = tape.backward(losses)
        squares, total = recorded.sq_norms()["weight"], recorded.weighted_sum(weights)["weight"]
        assert torch.get_float32_matmul_precision() == "medium"
    grads = gradients(module, x.double(), c.double())
    torch.testing.assert_close(squares.double(), grads.flatten(1).square().sum(1), rtol=2e-5, atol=0)
    exact = torch.einsum("n,n...->...", weights.double(), grads)
    assert (total.double() - exact).norm() <= 1e-5 * exact.norm()


def gradients(module: nn.Module, x: Tensor, c: Tensor) -> Tensor:
    wide = [p.detach().double().requires_grad_() for p in module.parameters()]
    apply = F.linear if isinstance(module, nn.Linear) else F.conv2d
    rows = [torch.autograd.grad((apply(x[i : i + 1], *wide) * c[i : i + 1]).sum(), wide[0])[0] for i in range(len(x))]
    return torch.stack(rows)


@pytest.mark.parametrize("kind", BODIES)
def test_norms_and_sums_are_of_full_products(kind: str) -> None:
    law_norms_and_sums_are_of_full_products(kind)


@pytest.mark.skipif(not rounds(), reason="this CPU has no products of bfloat16 numbers, so nothing can be rounded")
@pytest.mark.parametrize("kind", ["few positions", "many positions"])
def test_mutant_that_leaves_the_setting_alone_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "full_precision", nullcontext)
    for name in ("sq_norms", "weighted_sum"):
        monkeypatch.setattr(per_example.PerExample, name, getattr(per_example.PerExample, name).__wrapped__)
    monkeypatch.setattr(Tape, "_pull_back", Tape._pull_back.__wrapped__)
    with pytest.raises(AssertionError):
        law_norms_and_sums_are_of_full_products(kind)


class Settings(DenseGrad):
    """Gradients that note under which settings they are asked."""

    def __init__(self, grads: Tensor, noted: list[object]) -> None:
        super().__init__(grads)
        object.__setattr__(self, "noted", noted)

    def sq_norm(self) -> Tensor:
        self.noted.append(rounding_settings())
        return super().sq_norm()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        self.noted.append(rounding_settings())
        return super().weighted_sum(weights)

    def compact(self) -> Settings:
        self.noted.append(rounding_settings())
        return self

    def averaged(self, units: Units) -> DenseGrad:
        self.noted.append(rounding_settings())
        return DenseGrad(units.means(self.grads))


def law_everything_is_asked_under_full_precision() -> None:
    """On any machine: while norms, sums and units are computed, and gradients are built in backward."""
    noted: list[object] = []
    module = nn.Linear(3, 2, bias=False)
    with set_to("medium"):
        recording = Tape(module, 4)
        recording._recording = True
        recording.record(recording.tracked(module.weight), Settings(torch.ones(4, 2, 3), noted))
        gradients = per_example.PerExample(
            {"weight": module.weight}, {"weight": [Settings(torch.ones(4, 2, 3), noted)]}, 4
        )
        gradients.sq_norms()
        gradients.weighted_sum(torch.ones(4))
        gradients.averaged(Units(torch.tensor([0, 0, 1, 1]), 2))
        assert rounding_settings()
    assert noted == [[]] * 4


def test_everything_is_asked_under_full_precision() -> None:
    law_everything_is_asked_under_full_precision()


@pytest.mark.parametrize("name", ["sq_norms", "weighted_sum", "averaged"])
def test_mutant_that_leaves_the_setting_of_one_alone_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_example.PerExample, name, getattr(per_example.PerExample, name).__wrapped__)
    with pytest.raises(AssertionError):
        law_everything_is_asked_under_full_precision()


def test_the_setting_is_as_before_also_after_an_error() -> None:
    with set_to("medium"):
        before = rounding_settings()
        with full_precision():
            assert rounding_settings() == []
        assert rounding_settings() == before
        with pytest.raises(ZeroDivisionError), full_precision():
            raise ZeroDivisionError
        assert rounding_settings() == before


def test_the_probe_is_not_misled_by_rounded_products() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(128, 128), nn.Tanh())])
    samples = list(torch.randn(8, 1, 128))  # one row alone is no product of matrices, and is not rounded
    with set_to("medium"):
        probe(module, torch.stack, lambda batch, n: module(batch).square().flatten(1).sum(1), samples)
