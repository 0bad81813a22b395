"""Never a silent miss: what the tape cannot follow it refuses by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import ConfigurationError, UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.tape import tape as tape_module


class Net(nn.Module):
    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.conv = nn.Conv1d(4, 4, 1)
        self.norm = nn.BatchNorm1d(4)
        self.body = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.T, x.T @ grad


def run(body: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> None:
    net = Net(body)
    with Tape(net, len(x)) as tape:
        value = net(x).flatten(1).sum(1)
    tape.backward(value)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x: m.conv(x.T[:, :, None]), "conv1d on conv.weight"),
        (lambda m, x: m.norm(x), "batch_norm on norm.weight"),
        (lambda m, x: torch.cdist(x, m.layer.weight), "layer.weight"),
        (lambda m, x: torch.cat([x, m.layer.weight]), "layer.weight"),
        (lambda m, x: m.layer(x.T), "linear on layer.weight"),
        (lambda m, x: m.layer(x[:1].expand(7, -1)), "linear on layer.weight"),
        (lambda m, x: torch.maximum(x, m.layer.bias), "layer.bias"),
        (lambda m, x: Custom.apply(x, m.layer.weight), "layer.weight"),
        (lambda m, x: torch.jit.script(m.layer)(x), "layer"),
        (lambda m, x: F.embedding(x.long().abs() % 4, m.layer.weight, max_norm=1.0), "max_norm"),
        (lambda m, x: F.embedding(x.long().abs() % 4, m.layer.weight, scale_grad_by_freq=True), "scale_grad_by_freq"),
    ],
    ids=[
        "conv",
        "batch_norm",
        "cdist",
        "cat",
        "transposed",
        "gathered",
        "maximum",
        "custom",
        "scripted",
        "max_norm",
        "freq",
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_refused_by_name(body: Callable[[nn.Module, Tensor], Tensor], named: str) -> None:
    with pytest.raises(UnsupportedOperation) as caught:
        run(body, torch.randn(5, 4))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_frozen_parameter_may_go_through_anything() -> None:
    net = Net(lambda m, x: m.layer(m.conv(x[:, :, None])[:, :, 0]))
    net.conv.requires_grad_(False)
    with Tape(net, 5) as tape:
        value = net(torch.randn(5, 4)).sum(1)
    assert tape.backward(value).norms().shape == (5,)


@pytest.mark.parametrize(
    "read", [lambda p: p.shape, lambda p: p.detach() + 1, lambda p: p.data.norm(), lambda p: p.dtype]
)
def test_reading_a_parameter_is_not_an_application(read: Callable[[Tensor], object]) -> None:
    run(lambda m, x: (read(m.layer.weight), m.layer(x))[1], torch.randn(5, 4))


def test_losses_of_another_shape_are_refused() -> None:
    net = nn.Linear(4, 2)
    with Tape(net, 5) as tape:
        value = net(torch.randn(5, 4))
    with pytest.raises(ConfigurationError, match=r"losses must have shape \(5,\)"):
        tape.backward(value)


def test_a_gradient_left_before_is_left_alone() -> None:
    net = nn.Linear(4, 2)
    net.weight.grad = torch.ones(2, 4)
    with Tape(net, 5) as tape:
        value = net(torch.randn(5, 4)).sum(1)
    tape.backward(value)
    assert torch.equal(net.weight.grad, torch.ones(2, 4))


def test_a_constant_written_over_with_data_is_data() -> None:
    """Ids built by writing into a buffer belong to the examples."""
    model = nn.Embedding(9, 3).double()
    given = torch.randint(0, 9, (4, 4))

    def losses(ids: Tensor) -> Tensor:
        held = torch.zeros(ids.shape[0], 4, dtype=torch.int64)
        held[:, :4] = ids
        return model(held).square().sum((1, 2))

    with Tape(model, 4) as tape:
        value = losses(given)
    norms = tape.backward(value).norms()
    alone = [torch.autograd.grad(losses(given[i : i + 1]).sum(), model.weight)[0].norm() for i in range(4)]
    assert torch.allclose(norms, torch.stack(alone))


def test_mutant_that_passes_unknown_operations_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the refusal, the second look (gradient by an unseen road) still refuses."""
    monkeypatch.setattr(
        tape_module.Tape, "_apply_without_rule", lambda self, func, args, kwargs, given: func(*args, **kwargs)
    )
    with pytest.raises(UnsupportedOperation, match="road the tape cannot see"):
        run(lambda m, x: torch.cdist(x, m.layer.weight), torch.randn(5, 4))


class Hyper(nn.Module):
    """A weight or bias computed from each batch, next to a real parameter."""

    def __init__(self, body: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.hyper = nn.Linear(4, 16)
        self.real = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: F.linear(x, m.hyper(x).view(4, 4), m.real.bias),
        lambda m, x: F.linear(x, m.real.weight, m.hyper(x)[0, :4]),
        lambda m, x: F.layer_norm(x, (4,), m.hyper(x)[0, :4], m.norm.bias),
    ],
    ids=["weight", "bias", "norm"],
)
def test_a_weight_computed_from_data_is_refused(body: Callable[[nn.Module, Tensor], Tensor]) -> None:
    net = Hyper(body)
    with pytest.raises(UnsupportedOperation, match="computed from data"), Tape(net, 1):
        net(torch.randn(1, 4))
