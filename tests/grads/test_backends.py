"""The ways to per-example gradients agree; runs of examples are joined, or averaged to one unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dplit.errors import ConfigurationError, DplitError
from dplit.grads import PerExample, backends
from dplit.grads.backends import BACKENDS, MAX_EXAMPLES, PROBE_EXAMPLES, averaged, by_loop, joined
from tests.oracle import law_exact, loop_gradients

N = 5


def model() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.LayerNorm(3))
    module.idle = nn.Parameter(torch.ones(2))
    return module.double()


def losses(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).square().sum(1)


def runs(name: str, module: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, PerExample]]:
    """Run a backend on the batch, in runs as short as it needs them."""
    step = MAX_EXAMPLES.get(name, len(x))
    for part in x.split(step):
        yield from BACKENDS[name](module, lambda batch, n: losses(module, batch), part, len(part))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_equals_the_oracle(name: str) -> None:
    module, x = model(), torch.randn(N, 4).double()
    module[0].weight.grad = before = torch.ones(3, 4).double()
    gradients = joined(runs(name, module, x))
    assert module[0].weight.grad is before
    assert gradients.examples == N
    law_exact(gradients, loop_gradients(module, lambda i: losses(module, x[i : i + 1]), N), 1e-10)


def law_averaged(name: str) -> None:
    """All examples are one unit: its loss and gradient are the means, also where they come in runs."""
    module, x = model(), torch.randn(N, 4).double()
    expected = loop_gradients(module, lambda i: losses(module, x[i : i + 1]), N)
    value, gradients = averaged(runs(name, module, x), N)
    torch.testing.assert_close(value, losses(module, x).detach().mean())
    assert gradients.examples == 1
    total = gradients.weighted_sum(torch.ones(1).double())
    for key, grads in expected.items():
        torch.testing.assert_close(total[key], grads.mean(0))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_unit_of_all_examples_has_their_mean(name: str) -> None:
    law_averaged(name)


def test_joined_runs_keep_parameters_that_took_no_part() -> None:
    gradients = joined(runs("loop", model(), torch.randn(N, 4).double()))
    assert (gradients.sq_norms()["idle"] < 1e-300).all()
    assert gradients.weighted_sum(torch.ones(N).double())["idle"].shape == (2,)


def test_the_loop_takes_one_example() -> None:
    module = nn.Linear(6, 3)
    with pytest.raises(ConfigurationError, match="one example at a time"):
        list(by_loop(module, lambda batch, n: module(batch).sum(1), torch.randn(2, 6), 2))


@pytest.mark.parametrize("name", BACKENDS)
def test_our_own_refusals_pass_through(name: str) -> None:
    def refusing(batch: Any, n: int) -> Tensor:
        raise DplitError("ours")

    with pytest.raises(DplitError, match=r"^ours$"):
        list(BACKENDS[name](nn.Linear(6, 3), refusing, torch.randn(1, 6), 1))


def test_every_backend_says_how_many_examples_probe_it() -> None:
    assert PROBE_EXAMPLES.keys() == BACKENDS.keys()
    assert all(MAX_EXAMPLES.get(name, n) <= n for name, n in PROBE_EXAMPLES.items())


def test_mutant_that_sums_a_unit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.torch, "full", lambda shape, value, **options: torch.ones(shape, **options))
    with pytest.raises(AssertionError):
        law_averaged("tape")
