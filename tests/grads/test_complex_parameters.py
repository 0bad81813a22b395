"""Complex numbers: every engine trains both parts of them in the direction of an ordinary backward, or refuses by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import PerExample
from dplit.grads.backends import BACKENDS, joined
from dplit.grads.factors import base
from dplit.grads.factors.base import DenseGrad, flattened, inner
from dplit.grads.factors.units import Units
from dplit.grads.tape.tape import Tape
from tests.oracle import loop_gradients

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
N, D = 5, 8
REAL, COMPLEX = torch.float64, torch.complex128
Body = Callable[[nn.ParameterDict, Tensor], Tensor]
"""From parameters and `(n, 8)` activations to an output with the examples first."""


def spectrum(x: Tensor, filtered: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.fft.irfft(filtered(torch.fft.rfft(x)), n=D)


MEETS_DATA: dict[str, tuple[dict[str, tuple[int, ...]], torch.dtype, Body]] = {
    "filter": ({"w": (5,)}, COMPLEX, lambda p, x: spectrum(x, lambda f: f * p["w"])),
    "conjugate": ({"w": (5,)}, COMPLEX, lambda p, x: spectrum(x, lambda f: p["w"].conj() * f)),
    "mixing": ({"w": (5, 5)}, COMPLEX, lambda p, x: spectrum(x, lambda f: f @ p["w"])),
    "einsum": ({"w": (5, 5)}, COMPLEX, lambda p, x: spectrum(x, lambda f: torch.einsum("bi,io->bo", f, p["w"]))),
    "added": ({"w": (5,)}, COMPLEX, lambda p, x: spectrum(x, lambda f: f + p["w"])),
    "view as complex": ({"w": (5, 2)}, REAL, lambda p, x: spectrum(x, lambda f: f * torch.view_as_complex(p["w"]))),
    "polar": ({"r": (5,), "a": (5,)}, REAL, lambda p, x: spectrum(x, lambda f: f * torch.polar(p["r"].exp(), p["a"]))),
    "two parts": ({"r": (5,), "i": (5,)}, REAL, lambda p, x: spectrum(x, lambda f: f * torch.complex(p["r"], p["i"]))),
    "kernel": ({"w": (D,)}, REAL, lambda p, x: spectrum(x, lambda f: f * torch.fft.rfft(p["w"]))),
    "scaled spectrum": ({"w": (5,)}, REAL, lambda p, x: spectrum(x, lambda f: f * p["w"])),
    "complex constant": ({"w": (5,)}, REAL, lambda p, x: spectrum(x, lambda f: f / (p["w"] * (1 + 2j)))),
}
"""Complex numbers meet data: the tape has no rule for that."""

ALONE: dict[str, tuple[dict[str, tuple[int, ...]], torch.dtype, Body]] = {
    "parts": ({"w": (D,)}, COMPLEX, lambda p, x: x * p["w"].real + x.square() * p["w"].imag),
    "size and angle": ({"w": (D,)}, COMPLEX, lambda p, x: x * p["w"].abs() + x.square() * p["w"].angle()),
    "view as real": ({"w": (4,)}, COMPLEX, lambda p, x: x * torch.view_as_real(p["w"]).flatten()),
    "inverse transform": ({"w": (5,)}, COMPLEX, lambda p, x: x * torch.fft.irfft(p["w"].conj() * p["w"].sum(), n=D)),
    "a slice, twice": ({"w": (9,)}, COMPLEX, lambda p, x: x * p["w"][:8].real + x.sin() * p["w"][1:].imag),
    "norm of a transform": ({"w": (D,)}, REAL, lambda p, x: x * torch.fft.rfft(p["w"]).abs().sum()),
}
"""Parameters go through complex numbers and meet data as real ones."""

BODIES = {**MEETS_DATA, **ALONE}


def built(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor], Tensor]:
    torch.manual_seed(0)
    shapes, dtype, body = BODIES[name]
    parameters = nn.ParameterDict({key: nn.Parameter(torch.randn(shape, dtype=dtype)) for key, shape in shapes.items()})
    return parameters, lambda x: body(parameters, x).square().sum(1), torch.randn(N, D, dtype=REAL)


def real(gradients: dict[str, Tensor]) -> Tensor:
    """All gradients side by side, `(n, numbers)`, a complex number as two."""
    return torch.cat([flattened(g) for g in gradients.values()], 1)


def law_trains_both_parts(name: str, engine: str) -> None:
    module, loss, x = built(name)
    rows = [x] if engine != "loop" else list(x.split(1))
    found: PerExample = joined(
        part for run in rows for part in BACKENDS[engine](module, lambda b, n: loss(b), run, len(run))
    )
    expected = loop_gradients(module, lambda i: loss(x[i : i + 1]), N)
    oracle = real(expected)
    torch.testing.assert_close(found.norms(), oracle.norm(dim=1))
    weights = torch.linspace(0.5, 2, N, dtype=REAL)
    sums = found.weighted_sum(weights)
    assert {k: v.dtype for k, v in sums.items()} == {k: v.dtype for k, v in expected.items()}
    torch.testing.assert_close(real({k: v[None] for k, v in sums.items()})[0], weights @ oracle)
    units = Units(torch.tensor([0, 1, 0, 1, 1]), 2)
    torch.testing.assert_close(found.averaged(units).norms(), units.means(oracle).norm(dim=1))


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("name", BODIES)
def test_both_parts_train(name: str, engine: str) -> None:
    law_trains_both_parts(name, engine)


@pytest.mark.parametrize("name", ALONE)
def test_the_tape_pulls_gradients_back_through_complex_numbers(name: str) -> None:
    law_trains_both_parts(name, "tape")


@pytest.mark.parametrize("name", MEETS_DATA)
def test_the_tape_refuses_complex_numbers_that_meet_data(name: str) -> None:
    module, loss, x = built(name)
    with pytest.raises(UnsupportedOperation, match=r"complex numbers.*grads='loop'") as refused, Tape(module, N):
        loss(x)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["filter", "view as complex", "scaled spectrum"])
def test_mutant_a_tape_that_takes_them_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tape, "_refuse_complex", lambda *_: None)
    with pytest.raises((AssertionError, RuntimeError, UserWarning)):
        law_trains_both_parts(name, "tape")


def test_mutant_without_the_imaginary_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "flattened", lambda g: (g.real if g.is_complex() else g).reshape(len(g), -1))
    with pytest.raises((AssertionError, RuntimeError)):
        law_trains_both_parts("filter", "loop")


def test_inner_products_of_complex_gradients_are_real() -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(3, 2, 4, dtype=COMPLEX) for _ in range(2))
    torch.testing.assert_close(inner(DenseGrad(a), DenseGrad(b.conj())), (a * b).sum((1, 2)).real)
