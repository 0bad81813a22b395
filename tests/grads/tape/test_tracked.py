"""Tensors computed from parameters: their gradients are pulled back as autograd would, by the cheapest way known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dplit.grads import Tape
from dplit.grads.factors.base import DenseGrad, FactoredGrad
from dplit.grads.factors.slices import SlicedGrad
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.tape import tracked as tracked_module
from dplit.grads.tape.tracked import DerivedTensor, TrackedParameter

N = 3
Function = Callable[[Tensor, Tensor], Tensor]

FUNCTIONS: dict[str, tuple[Function, type[FactoredGrad]]] = {
    "exp": (lambda p, q: p.exp(), VjpGrad),
    "slice": (lambda p, q: p[1:, :2], SlicedGrad),
    "slice of a slice": (lambda p, q: p[1:][:, 1], SlicedGrad),
    "of two": (lambda p, q: p @ q, VjpGrad),
    "slice of exp": (lambda p, q: p.exp()[1:], VjpGrad),
}


def derived(name: str) -> tuple[nn.ParameterDict, DerivedTensor]:
    torch.manual_seed(0)
    module = nn.ParameterDict({name: nn.Parameter(torch.randn(4, 4, dtype=torch.float64)) for name in ("p", "q")})
    with Tape(module, N) as tape:
        leaf = FUNCTIONS[name][0](module["p"], module["q"])
    tracked = tape.tracked(leaf)
    assert isinstance(tracked, DerivedTensor)
    return module, tracked


def law_pulled_back(name: str) -> None:
    module, tracked = derived(name)
    grads = torch.randn(N, *tracked.tensor.shape, dtype=torch.float64)
    whole = FUNCTIONS[name][0](module["p"], module["q"])
    pulled_back = dict(tracked.pull_back(DenseGrad(grads)))
    for key, grad in pulled_back.items():
        expected = [torch.autograd.grad(whole, module[key], row, retain_graph=True)[0] for row in grads]
        torch.testing.assert_close(grad.dense().view(N, 4, 4), torch.stack(expected))
    assert set(pulled_back) == ({"p", "q"} if name == "of two" else {"p"})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pulled_back_as_autograd_does(name: str) -> None:
    law_pulled_back(name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_cheapest_way_is_taken(name: str) -> None:
    _, tracked = derived(name)
    grads = torch.randn(N, *tracked.tensor.shape, dtype=torch.float64)
    assert {type(grad) for _, grad in tracked.pull_back(DenseGrad(grads))} == {FUNCTIONS[name][1]}


def test_names_say_how_it_was_computed() -> None:
    assert derived("of two")[1].name in ("matmul(p, q)", "__matmul__(p, q)")
    parameter = TrackedParameter(torch.ones(2), "layer.weight")
    assert parameter.name == "layer.weight"
    assert list(parameter.pull_back(grad := DenseGrad(torch.ones(N, 2)))) == [("layer.weight", grad)]


def test_it_knows_the_parameters_behind_it() -> None:
    p, q = (TrackedParameter(torch.ones(2), name) for name in "pq")
    both = DerivedTensor(torch.ones(2), torch.ones(2), (p, q))
    assert p.parameters == ("p",)
    assert DerivedTensor(torch.ones(2), torch.ones(2), (both, p)).parameters == ("p", "q")


def test_the_operation_applied_to_another_tensor() -> None:
    _, tracked = derived("exp")
    assert torch.equal(tracked.apply_to(torch.zeros(2)), torch.ones(2))


def test_mutant_that_takes_every_tensor_for_a_slice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tracked_module.slice_of_view
    monkeypatch.setattr(tracked_module, "slice_of_view", lambda view, parent: right(parent, parent))
    with pytest.raises((AssertionError, RuntimeError)):
        law_pulled_back("exp")
