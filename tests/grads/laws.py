"""Laws that the tests of several rules hold: gradients recorded by the tape are those of one backward per example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dplit.errors import UnsupportedOperation
from dplit.grads import PerExample, Tape
from tests.oracle import law_exact, loop_gradients

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
N, T, D, V = 5, 4, 6, 7
"""Examples, positions, width, vocabulary."""

Body = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a module, `(n, t, D)` activations and `(n, t)` ids to an output with the examples first."""


def law_body(
    module: nn.Module, body: Body, n: int = N, dtype: torch.dtype = torch.float64, t: int = T, seed: int = 0
) -> PerExample:
    """The tape's gradients of a body equal those of one backward per example."""
    torch.manual_seed(seed + n)
    module, x, ids = module.to(dtype), torch.randn(n, t, D, dtype=dtype), torch.randint(0, V, (n, t))
    loss = lambda x, ids: body(module, x, ids).square().flatten(1).sum(1)  # noqa: E731
    expected = loop_gradients(module, lambda i: loss(x[i : i + 1], ids[i : i + 1]), n)
    with Tape(module, n) as tape:
        losses = loss(x, ids)
    gradients = tape.backward(losses)
    law_exact(gradients, expected, TOLERANCE[dtype])
    return gradients


def law_refused(module: nn.Module, body: Body, named: str) -> None:
    """The tape refuses a body in one line that names the operation."""
    torch.manual_seed(0)
    x, ids = torch.randn(N, T, D), torch.randint(0, V, (N, T))
    with pytest.raises(UnsupportedOperation, match=named) as caught, Tape(module, N):
        body(module, x, ids)
    assert "\n" not in str(caught.value)


every_size = pytest.mark.parametrize("n", [1, 2, T, N])
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
