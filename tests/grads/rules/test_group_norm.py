"""Group and instance norm: one weight for each channel, statistics of one image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.rules import group_norm
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "group": (lambda: nn.GroupNorm(2, 6), (6, 4, 5)),
    "group_flat": (lambda: nn.GroupNorm(3, 6), (6,)),
    "one_group": (lambda: nn.GroupNorm(1, 6), (6, 7)),
    "instance1d": (lambda: nn.InstanceNorm1d(6, affine=True), (6, 7)),
    "instance2d": (lambda: nn.InstanceNorm2d(6, affine=True), (6, 3, 4)),
}


class Twice(nn.Module):
    """The same normalisation used twice, after a parameter."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.before = nn.Parameter(torch.rand(1) + 0.5)
        for p in norm.parameters():
            nn.init.normal_(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(x + x.square() * self.before).tanh() + x)


def check(
    model: nn.Module,
    x: Tensor,
    dtype: torch.dtype = torch.float64,
    n: int | None = None,
    probe: Callable[[Tensor], Tensor] = torch.tanh,
) -> None:
    model, x, n = model.to(dtype), x.to(dtype), n or len(x)
    slope = torch.linspace(0.5, 1.5, x[0].numel(), dtype=dtype).view(x[0].shape)
    loss = lambda x, n: (probe(model(x)) * slope).unflatten(0, (n, -1)).flatten(1).sum(1)  # noqa: E731
    m = len(x) // n
    expected = loop_gradients(model, lambda i: loss(x[i * m : (i + 1) * m], 1), n)
    with Tape(model, n) as tape:
        value = loss(x, n)
    law_exact(tape.backward(value), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("kind", MODELS)
def test_exact(kind: str, n: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[kind]
    check(Twice(make()), torch.randn(n, *shape), dtype)


@pytest.mark.parametrize("kind", MODELS)
def test_exact_with_frozen_parameters(kind: str) -> None:
    torch.manual_seed(1)
    make, shape = MODELS[kind]
    for frozen in ("weight", "bias"):
        model = Twice(make())
        if getattr(model.norm, frozen, None) is not None:
            getattr(model.norm, frozen).requires_grad_(False)
        check(model, torch.randn(4, *shape))


@pytest.mark.parametrize("kind", ["group", "instance2d"])
def test_exact_with_several_images_an_example(kind: str) -> None:
    torch.manual_seed(2)
    make, shape = MODELS[kind]
    check(Twice(make()), torch.randn(12, *shape), n=4)


def test_exact_when_the_weight_is_the_bias() -> None:
    torch.manual_seed(3)
    norm = nn.GroupNorm(2, 6)
    norm.bias = norm.weight
    check(Twice(norm), torch.randn(4, 6, 3))


def test_exact_in_other_memory_formats() -> None:
    torch.manual_seed(4)
    check(Twice(nn.GroupNorm(2, 6)), torch.randn(4, 6, 3, 4).to(memory_format=torch.channels_last))


@pytest.mark.parametrize("kind", MODELS)
def test_autocast(kind: str) -> None:
    torch.manual_seed(5)
    make, shape = MODELS[kind]
    model, x = make(), torch.randn(4, *shape)
    expected = loop_gradients(model, lambda i: model(x[i : i + 1]).tanh().sum(), 4)
    with torch.autocast("cpu", torch.bfloat16), Tape(model, 4) as tape:
        value = model(x).float().tanh().flatten(1).sum(1)
    gradients = tape.backward(value)
    assert gradients.norms().dtype == torch.float32
    law_exact(gradients, expected, 5e-2)


@pytest.mark.parametrize("kind", ["group", "instance1d"])
def test_sums_of_narrow_types_are_wide(kind: str) -> None:
    torch.manual_seed(6)
    make, shape = MODELS[kind]
    model, x = make().bfloat16(), torch.randn(4, *shape).bfloat16()
    with Tape(model, 4) as tape:
        value = model(x).flatten(1).sum(1)
    assert tape.backward(value).weighted_sum(torch.ones(4))["weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda w, x: F.group_norm(x.T[:, :4], 2, w), "group_norm on weight"),
        (lambda w, x: F.group_norm(x, 2, x.new_ones(4).requires_grad_(), w), "computed from data|first dimension"),
        (lambda w, x: F.instance_norm(x[..., None], torch.zeros(4), torch.ones(4), w), "running statistics"),
        (lambda w, x: F.instance_norm(x.T[..., None], None, None, w), "instance_norm on weight"),
    ],
    ids=["sliced", "data", "running", "moved"],
)
def test_refused(body: Callable[[Tensor, Tensor], Tensor], named: str) -> None:
    model = nn.ParameterDict({"weight": nn.Parameter(torch.ones(4))})
    with pytest.raises(UnsupportedOperation, match=named) as caught, Tape(model, 5):
        body(model["weight"], torch.randn(5, 4))
    assert "\n" not in str(caught.value)


def test_mutant_that_forgets_the_mean_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    right = group_norm._scales
    monkeypatch.setattr(group_norm, "_scales", lambda products, plain, *rest: right(products, 0 * plain, *rest))
    with pytest.raises(AssertionError):
        check(Twice(nn.GroupNorm(2, 6)), torch.randn(4, 6, 4, 5))
