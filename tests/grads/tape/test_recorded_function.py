"""The backward of a rule: it records while the tape runs its backward, and its own arithmetic is not recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.rules.linear import _Linear
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.torch_functions import without_override_check
from tests.oracle import law_exact, loop_gradients


class Watched(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[object] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.operations.append(func)
        return func(*args, **(kwargs or {}))


def law_arithmetic_is_unseen() -> None:
    module, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    out = _Linear.apply(x, module.weight, module.bias, Tape(module, 4)).sum()
    backward = without_override_check(torch.autograd.backward)
    watched = Watched()
    with watched:
        backward(out)
    assert x.grad is not None
    assert not [f for f in watched.operations if getattr(f, "__name__", "") in ("matmul", "__matmul__", "reshape")]


def test_the_arithmetic_of_a_gradient_is_unseen() -> None:
    law_arithmetic_is_unseen()


def test_a_backward_of_the_models_own_records_nothing() -> None:
    """The model differentiates inside its forward; only the tape's backward counts."""
    torch.manual_seed(0)
    module, x = nn.Linear(3, 2), torch.randn(4, 3)
    with Tape(module, 4) as tape:
        moving = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(moving).sum(), moving)
        losses = module(x + slope.detach()).sum(1)
        assert tape._recorded == []
    expected = (2 * (1 + (x + module.weight.sum(0)).square().sum(1))).sqrt()
    torch.testing.assert_close(tape.backward(losses).norms(), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_layer_is_seen(reentrant: bool) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    norms = []
    for layer in (module, lambda x: checkpoint(module, x, use_reentrant=reentrant)):
        with Tape(module, 4) as tape:
            losses = layer(x).square().sum(1)
        norms.append(tape.backward(losses).norms())
    torch.testing.assert_close(norms[0], norms[1])


def test_the_gradient_of_the_input_is_autograds() -> None:
    module, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    out = _Linear.apply(x, module.weight, module.bias, Tape(module, 4))
    back = torch.randn(4, 2)
    (expected,) = torch.autograd.grad(F.linear(x, module.weight, module.bias), x, back)
    (input_gradient,) = torch.autograd.grad(out, x, back)
    torch.testing.assert_close(input_gradient, expected)


def test_mutant_whose_arithmetic_is_seen_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(ctx, back: Tensor):
        return ctx._forward_cls.gradient(ctx, ctx.saved_tensors, back)

    monkeypatch.setattr(RecordedFunction, "backward", staticmethod(backward))
    with pytest.raises(AssertionError):
        law_arithmetic_is_unseen()


class Biases(nn.Module):
    """Only biases are trained; the loss holds the slope of the output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))
        self.layers(torch.zeros(1, 2, 4))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("bias" in name)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        out = self.layers(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out.square().sum(1) + 5 * slope.square().sum((1, 2))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv1d(2, 3, 2),
    "group_norm": lambda: nn.GroupNorm(1, 2),
    "layer_norm": lambda: nn.LayerNorm(4),
    "linear": lambda: nn.Linear(4, 4),
}


def law_exact_or_refused_twice(layer: str) -> None:
    """A gradient that is differentiated in turn is exact, or refused by the names of the parameters."""
    torch.manual_seed(0)
    module, x = Biases(LAYERS[layer]()).double(), torch.randn(3, 2, 4).double()
    expected = loop_gradients(module, lambda i: module(x[i : i + 1]), 3)
    refusal = None
    try:
        with Tape(module, 3) as tape:
            losses = module(x)
        law_exact(tape.backward(losses), expected, 1e-10)
    except UnsupportedOperation as error:
        refusal = error
    if refusal is not None:
        assert refusal.parameters
        assert set(refusal.parameters) <= expected.keys()
        assert '"auto"' in str(refusal)


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_gradient_that_is_differentiated_in_turn(layer: str) -> None:
    law_exact_or_refused_twice(layer)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_mutant_that_drops_second_derivatives_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(ctx: Any, back: Tensor) -> Any:
        with torch._C.DisableTorchFunction():
            return ctx._forward_cls.gradient(ctx, ctx.saved_tensors, back)

    monkeypatch.setattr(RecordedFunction, "backward", staticmethod(blind))
    with pytest.raises(AssertionError):
        law_exact_or_refused_twice("conv")
