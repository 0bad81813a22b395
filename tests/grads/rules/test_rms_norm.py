"""Root-mean-square norm: exact over one or more trailing dimensions, with and without an epsilon of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dplit.grads import Tape
from dplit.grads.rules import rms_norm
from tests.grads.laws import law_refused
from tests.grads.rules.test_group_norm import TOLERANCE, Twice, check
from tests.oracle import law_exact, loop_gradients

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "rms": (lambda: nn.RMSNorm(6), (5, 6)),
    "rms_eps": (lambda: nn.RMSNorm(6, eps=0.1), (6,)),
    "rms_two": (lambda: nn.RMSNorm((3, 6)), (2, 3, 6)),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("kind", MODELS)
def test_exact(kind: str, n: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[kind]
    check(Twice(make()), torch.randn(n, *shape), dtype)


@pytest.mark.parametrize("kind", MODELS)
def test_exact_with_a_frozen_weight(kind: str) -> None:
    torch.manual_seed(1)
    make, shape = MODELS[kind]
    model = Twice(make())
    model.norm.weight.requires_grad_(False)
    check(model, torch.randn(4, *shape))


def test_exact_with_several_images_an_example() -> None:
    torch.manual_seed(2)
    make, shape = MODELS["rms"]
    check(Twice(make()), torch.randn(12, *shape), n=4)


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


def test_sums_of_narrow_types_are_wide() -> None:
    torch.manual_seed(6)
    make, shape = MODELS["rms"]
    model, x = make().bfloat16(), torch.randn(4, *shape).bfloat16()
    with Tape(model, 4) as tape:
        value = model(x).flatten(1).sum(1)
    assert tape.backward(value).weighted_sum(torch.ones(4))["weight"].dtype == torch.float32


def test_refused_over_the_examples() -> None:
    model = nn.ParameterDict({"weight": nn.Parameter(torch.ones(6))})
    law_refused(model, lambda m, x, ids: F.rms_norm(x, x.shape, m["weight"].expand(x.shape)), "rms_norm on .*couples")


def test_mutant_that_records_the_input_unnormalised_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(8)
    monkeypatch.setattr(rms_norm.torch, "rsqrt", torch.ones_like)
    with pytest.raises(AssertionError):
        check(Twice(nn.RMSNorm(6)), torch.randn(4, 5, 6))
