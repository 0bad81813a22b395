"""The backward of a rule: it records while the tape runs its backward, and its own arithmetic is not recorded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from dplit.grads import Tape
from dplit.grads.rules.linear import _Linear
from dplit.grads.tape.recorded_function import RecordedFunction
from dplit.grads.tape.torch_functions import without_override_check


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
