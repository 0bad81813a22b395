"""Batch norm by fixed statistics is exact, a map of each number by itself; by those of its input it is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import Tape
from dplit.grads.rules import batch_norm
from tests.grads.laws import TOLERANCE
from tests.oracle import law_exact, loop_gradients

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "flat": (lambda: nn.BatchNorm1d(6), (6,)),
    "1d": (lambda: nn.BatchNorm1d(6), (6, 5)),
    "2d": (lambda: nn.BatchNorm2d(6, eps=0.1), (6, 3, 4)),
    "3d": (lambda: nn.BatchNorm3d(6), (6, 2, 3, 2)),
    "sync": (lambda: nn.SyncBatchNorm(6), (6, 3, 4)),
    "without_affine": (lambda: nn.BatchNorm2d(6, affine=False), (6, 3, 4)),
    "instance": (lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True), (6, 3, 4)),
}


class Net(nn.Module):
    """A normalisation that is used twice, between parameters."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.before = norm.eval(), nn.Parameter(torch.rand(1) + 0.5)
        for tensor in (*norm.parameters(), norm.running_mean):
            nn.init.normal_(tensor)
        norm.running_var.uniform_(0.1, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(x + x.square() * self.before).tanh() + x)


def law_fixed_norm(model: nn.Module, x: Tensor, n: int, dtype: torch.dtype = torch.float64) -> None:
    model, x, m = model.to(dtype), x.to(dtype), len(x) // n
    slope = torch.linspace(0.5, 1.5, x[0].numel(), dtype=dtype).view(x[0].shape)
    loss = lambda x, n: (model(x).tanh() * slope).unflatten(0, (n, -1)).flatten(1).sum(1)  # noqa: E731
    expected = loop_gradients(model, lambda i: loss(x[i * m : (i + 1) * m], 1), n)
    with Tape(model, n) as tape:
        value = loss(x, n)
    law_exact(tape.backward(value), expected, TOLERANCE[dtype])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(MODELS)),
    st.integers(1, 7),
    st.integers(1, 3),
    st.sampled_from([torch.float64, torch.float32]),
    st.integers(0, 99),
)
def test_exact(kind: str, n: int, rows: int, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    make, shape = MODELS[kind]
    law_fixed_norm(Net(make()), torch.randn(n * rows, *shape), n, dtype)


@pytest.mark.parametrize("frozen", [("weight",), ("bias",), ("weight", "bias")])
def test_exact_with_frozen_parameters(frozen: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    model = Net(nn.BatchNorm2d(6))
    for name in frozen:
        model.norm.get_parameter(name).requires_grad_(False)
    law_fixed_norm(model, torch.randn(4, 6, 3, 4), 4)


def test_exact_in_other_memory_formats_and_before_a_large_mean() -> None:
    torch.manual_seed(2)
    model = Net(nn.BatchNorm2d(6))
    law_fixed_norm(model, torch.randn(4, 6, 3, 4).to(memory_format=torch.channels_last), 4)
    model.norm.running_mean += 1e4
    law_fixed_norm(model, torch.randn(4, 6, 3, 4) + 1e4, 4)


def test_nothing_is_written_to_the_statistics() -> None:
    torch.manual_seed(3)
    model = Net(nn.BatchNorm1d(6))
    before = {name: value.clone() for name, value in model.named_buffers()}
    law_fixed_norm(model.float(), torch.randn(4, 6), 4, torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_sums_of_narrow_types_are_wide() -> None:
    torch.manual_seed(4)
    model, x = Net(nn.BatchNorm1d(6)).bfloat16(), torch.randn(4, 6).bfloat16()
    with Tape(model, 4) as tape:
        value = model(x).sum(1)
    assert tape.backward(value).weighted_sum(torch.ones(4))["norm.weight"].dtype == torch.float32


def test_autocast() -> None:
    torch.manual_seed(5)
    model, x = Net(nn.BatchNorm2d(6)), torch.randn(4, 6, 3, 4)
    expected = loop_gradients(model, lambda i: model(x[i : i + 1]).sum(), 4)
    with torch.autocast("cpu", torch.bfloat16), Tape(model, 4) as tape:
        value = model(x).float().flatten(1).sum(1)
    law_exact(tape.backward(value), expected, 5e-2)


ONES = torch.ones(4)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda w, x: F.batch_norm(x, None, None, w, training=True), "mixes the examples .*GroupNorm"),
        (lambda w, x: F.batch_norm(x, ONES, ONES, w, training=True), "mixes the examples"),
        (lambda w, x: F.batch_norm(x, x.mean(0), x.var(0), w), "computed or trained|reduced over the examples"),
        (lambda w, x: F.batch_norm(x, ONES, x.detach().var(0), w), "computed or trained|reduced over the examples"),
        (lambda w, x: F.batch_norm(x, w, ONES, w), "computed or trained"),
        (
            lambda w, x: F.batch_norm(x, ONES, ONES, x[0].detach().requires_grad_(), w),
            "computed from data|one row was chosen",
        ),
        (lambda w, x: F.batch_norm(x.T[:, :4], ONES, ONES, w), "batch_norm on weight"),
    ],
    ids=["training", "training_with_statistics", "of_the_batch", "of_the_batch_in_part", "trained", "data", "moved"],
)
def test_refused(body: Callable[[Tensor, Tensor], Tensor], named: str) -> None:
    model = nn.ParameterDict({"weight": nn.Parameter(torch.ones(4))})
    model.register_buffer("ones", ONES)
    with pytest.raises(UnsupportedOperation, match=named) as caught, Tape(model, 5):
        body(model["weight"], torch.randn(5, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("_for_channels", lambda values, x: 0 * values.view(1, -1, *[1] * (x.dim() - 2))),
        ("_by_example", lambda values, n: values.flatten(2).sum(2).mean(0).expand(n, -1)),
    ],
    ids=["the mean forgotten", "spread over the examples"],
)
def test_mutants_are_caught(name: str, mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(6)
    monkeypatch.setattr(batch_norm, name, mutant)
    with pytest.raises(AssertionError):
        law_fixed_norm(Net(nn.BatchNorm2d(6)), torch.randn(4, 6, 3, 4), 4)
