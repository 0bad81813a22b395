"""Exact gradients of convolutions of every geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.rules import conv
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
KINDS = {
    "conv1d": (nn.Conv1d, (11,)),
    "conv2d": (nn.Conv2d, (7, 6)),
    "conv3d": (nn.Conv3d, (5, 4, 6)),
    "transposed1d": (nn.ConvTranspose1d, (6,)),
    "transposed2d": (nn.ConvTranspose2d, (4, 5)),
    "transposed3d": (nn.ConvTranspose3d, (3, 3, 4)),
}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "padded": {"padding": 1},
    "strided": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "stride": 2},
}


def check(
    model: nn.Module,
    x: Tensor,
    dtype: torch.dtype = torch.float64,
    n: int | None = None,
    tolerance: float | None = None,
) -> None:
    model, x, n = model.to(dtype), x.to(dtype), n or len(x)
    loss = lambda x, n: (model(x).unflatten(0, (n, -1)).tanh() + 0.3).square().flatten(1).sum(1)  # noqa: E731
    m = len(x) // n
    expected = loop_gradients(model, lambda i: loss(x[i * m : (i + 1) * m], 1), n)
    with Tape(model, n) as tape:
        value = loss(x, n)
    law_exact(tape.backward(value), expected, tolerance or TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_exact(kind: str, form: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, space = KINDS[kind]
    for n in (1, 4):
        check(make(4, 4, 3 if form != "dilated" else 2, **FORMS[form]), torch.randn(n, 4, *space), dtype)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["same", "valid", (1, 2)])
@pytest.mark.parametrize("kernel", [(2, 3), (3, 4), (1, 1)])
def test_exact_with_padding(padding: Any, kernel: tuple[int, int]) -> None:
    torch.manual_seed(1)
    check(nn.Conv2d(2, 3, kernel, padding=padding, dilation=(1, 2)), torch.randn(4, 2, 9, 10))


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_exact_with_padding_modes(mode: str) -> None:
    torch.manual_seed(2)
    check(nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), torch.randn(4, 2, 5, 6))


def test_exact_with_output_padding() -> None:
    torch.manual_seed(3)
    check(nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, True, 2), torch.randn(4, 4, 5, 3))


class Reused(nn.Module):
    """One kernel and bias used more than once: again, with strides, transposed, as a linear map, derived."""

    def __init__(self, body: Callable[[Reused, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def again(m: Reused, x: Tensor) -> Tensor:
    return m.conv(m.conv(m.conv(x).tanh()).tanh())


def other_strides(m: Reused, x: Tensor) -> Tensor:
    y = F.conv2d(m.conv(x).tanh(), m.conv.weight, m.conv.bias, stride=2)
    return F.conv_transpose2d(y, m.conv.weight, m.conv.bias, stride=2)


def as_linear(m: Reused, x: Tensor) -> Tensor:
    y = m.conv(x).tanh()
    return F.linear(F.unfold(y, 3, padding=1).mT, m.conv.weight.view(4, -1), m.conv.bias)


def derived(m: Reused, x: Tensor) -> Tensor:
    """Weight standardisation: the kernel is a function of the parameter."""
    w = m.conv.weight
    return F.conv2d(m.conv(x).tanh(), (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True), padding=1)


@pytest.mark.parametrize("size", [(2, 2), (6, 5)])
@pytest.mark.parametrize("body", [again, other_strides, as_linear, derived])
def test_exact_when_reused(body: Callable[[Reused, Tensor], Tensor], size: tuple[int, int]) -> None:
    torch.manual_seed(4)
    size = (5, 5) if body is other_strides and size == (2, 2) else size
    for n in (1, 5):
        check(Reused(body), torch.randn(n, 4, *size))


def test_exact_with_several_images_an_example() -> None:
    torch.manual_seed(5)
    check(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 3, 2)), torch.randn(12, 2, 6, 6), n=4)


def test_exact_in_other_memory_formats() -> None:
    torch.manual_seed(6)
    x = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)
    check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 2)), x)
    check(nn.Conv2d(3, 4, 3, stride=2), torch.randn(6, 3, 7, 4).transpose(2, 3))


def test_exact_with_frozen_parameters() -> None:
    torch.manual_seed(7)
    for frozen in ("0.weight", "0.bias", "2.weight", "2.bias"):
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.ConvTranspose2d(3, 2, 2))
        model.get_parameter(frozen).requires_grad_(False)
        check(model, torch.randn(4, 2, 5, 5))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(1, 4), c=st.integers(1, 3), p=st.integers(1, 9), k=st.integers(1, 4), t=st.integers(4, 9))
def test_exact_at_any_shape(n: int, c: int, p: int, k: int, t: int) -> None:
    torch.manual_seed(n * t + c)
    check(nn.Conv1d(2 * c, 2 * p, k, groups=2, stride=2, padding=k // 2), torch.randn(n, 2 * c, t))


def test_exact_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("factors.ghost_norm", "rules.conv"):
        monkeypatch.setattr(f"dplit.grads.{module}.MAX_INSTANTIATED", 300)
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 300)
    for body in (again, as_linear, derived):
        torch.manual_seed(8)
        check(Reused(body), torch.randn(5, 4, 3, 4))


def test_autocast() -> None:
    torch.manual_seed(9)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 2, 2)), torch.randn(4, 3, 6, 6)
    expected = loop_gradients(model, lambda i: model(x[i : i + 1]).square().sum(), 4)
    with torch.autocast("cpu", torch.bfloat16), Tape(model, 4) as tape:
        value = model(x).float().square().flatten(1).sum(1)
    gradients = tape.backward(value)
    assert gradients.norms().dtype == torch.float32
    law_exact(gradients, expected, 5e-2)


def test_an_example_of_weight_zero_is_left_out() -> None:
    """All of them too: no example, no convolution."""
    torch.manual_seed(10)
    model, x = nn.Conv2d(2, 3, 3), torch.randn(4, 2, 5, 5)
    x[1] = torch.nan
    with Tape(model, 4) as tape:
        value = model(x).flatten(1).sum(1)
    gradients = tape.backward(value)
    assert gradients.weighted_sum(torch.tensor([1.0, 0, 1, 1]))["weight"].isfinite().all()
    assert gradients.weighted_sum(torch.zeros(4))["weight"].abs().sum() == 0


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.conv(x[0]),
        lambda m, x: m.conv(x.movedim(1, 0)[:, :4]),
        lambda m, x: F.conv2d(x, m.conv(x)[:4, :, :3, :3], m.conv.bias),
        lambda m, x: F.conv2d(x, m.conv.weight, m.conv.bias, stride=2, padding="same"),
    ],
    ids=["unbatched", "moved", "kernel_from_data", "same_with_stride"],
)
def test_refused(body: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Reused(body)
    with pytest.raises(UnsupportedOperation, match=r"conv2d on .*conv") as caught, Tape(model, 5):
        model(torch.randn(5, 4, 6, 6))
    assert "\n" not in str(caught.value)


def test_mutant_that_drops_products_of_positions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(11)

    def alone(grad: conv.ConvGrad) -> Tensor:
        each = grad._linear()
        return (each.x.square().sum(-1) * each.back.square().sum(-1)).sum((1, 2))

    monkeypatch.setattr(conv.ConvGrad, "sq_norm", alone)
    with pytest.raises(AssertionError):
        check(nn.Conv2d(2, 3, 3), torch.randn(4, 2, 5, 5))


@pytest.mark.parametrize("per_number", [0, 10**12], ids=["kept", "ghost"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_exact_either_way(monkeypatch: pytest.MonkeyPatch, per_number: int, k: int) -> None:
    """With gradients kept, with Gram matrices of pixels, and with those of windows."""
    monkeypatch.setattr("dplit.grads.factors.ghost_norm.PRODUCTS_PER_NUMBER", {"cpu": per_number})
    torch.manual_seed(11)
    for options in ({}, {"stride": 2}, {"padding": 1, "groups": 2}, {"dilation": 2, "padding": "same"}):
        check(nn.Conv2d(4, 6, k, **options), torch.randn(4, 4, 6, 5))
        check(nn.Conv1d(4, 6, k, **options), torch.randn(4, 4, 7))
    check(nn.ConvTranspose2d(4, 6, k, padding=k // 2), torch.randn(4, 4, 3, 5))


def test_mutant_that_forgets_a_corner_of_the_window_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(12)
    right = conv.Geometry.offsets
    monkeypatch.setattr(conv.Geometry, "offsets", lambda *args: list(right(*args))[1:])
    with pytest.raises(AssertionError):
        check(nn.Conv2d(4, 6, 3, padding=1), torch.randn(4, 4, 5, 5))


SIZES = [(1, 8, 12, 5, 1, 1), (32, 16, 10, 3, 1, 1), (1, 1, 9, 3, 1, 2), (6, 3, 11, 3, 3, 3), (16, 16, 7, 1, 1, 1)]
"""Channels in and out, width, kernel, groups, images of an example."""


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("size", SIZES)
def test_gradients_made_at_once_are_those_made_one_by_one_and_a_bad_example_stays_alone(size: Any, bad: float) -> None:
    c, p, width, kernel, groups, m = size
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, m, c, width, width, generator=draw)
    back = torch.randn(5, m, p, *[width - kernel + 1] * 2, generator=draw)
    geometry = conv.Geometry((kernel,) * 2, (1, 1), (0, 0), (1, 1), groups)
    expected = conv.ConvGrad(x, back, geometry)._one_by_one()
    torch.testing.assert_close(conv.ConvGrad(x, back, geometry)._at_once(), expected, rtol=1e-4, atol=1e-4)
    x[2], back[2] = bad, bad
    others = [0, 1, 3, 4]
    gradients = conv.ConvGrad(x, back, geometry)._at_once()[others]
    torch.testing.assert_close(gradients, expected[others], rtol=1e-4, atol=1e-4)
