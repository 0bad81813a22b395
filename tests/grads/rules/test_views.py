"""Gradients of views and copies of a parameter, pulled back to it: as autograd does, for every form of gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dplit.grads import Tape
from dplit.grads.factors.base import DenseGrad, FactoredGrad
from dplit.grads.factors.outer_product import OuterProductGrad
from dplit.grads.factors.rows import RowPerExampleGrad, row_per_example_grad
from dplit.grads.factors.vjp import VjpGrad
from dplit.grads.rules import views
from dplit.grads.rules.matmul import BatchedOuterProductGrad
from dplit.grads.tape.tracked import DerivedTensor

N = 4
View = Callable[[Tensor], Tensor]

VIEWS: dict[str, tuple[tuple[int, ...], View]] = {
    "T": ((3, 5), lambda p: p.T),
    "mT": ((2, 3, 5), lambda p: p.mT),
    "permute": ((2, 3, 5), lambda p: p.permute(2, 0, 1)),
    "movedim": ((2, 3, 5), lambda p: torch.movedim(p, 0, -1)),
    "reshape": ((3, 4), lambda p: p.reshape(2, 6)),
    "view": ((3, 4), lambda p: p.view(12)),
    "unsqueeze": ((3, 4), lambda p: p.unsqueeze(0)),
    "clone": ((3, 4), torch.clone),
    "to": ((3, 4), lambda p: p.to(torch.float64)),
    "rows of each example": ((2 * N, 3), lambda p: p.reshape(2 * N, 3, 1)),
    "expand": ((1, 3), lambda p: p.expand(N, 3)),
    "expand inside": ((2, 1, 3), lambda p: p.expand(2, 4, 3)),
    "expand to more dimensions": ((3,), lambda p: p.expand(N, 3)),
}


def derived(name: str) -> tuple[nn.Parameter, DerivedTensor]:
    torch.manual_seed(0)
    shape, view = VIEWS[name]
    module = nn.ParameterDict({"p": nn.Parameter(torch.randn(shape, dtype=torch.float64))})
    with Tape(module, N) as tape:
        leaf = view(module["p"])
    tracked = tape.tracked(leaf)
    assert isinstance(tracked, DerivedTensor)
    return module["p"], tracked


def gradients(shape: tuple[int, ...]) -> list[FactoredGrad]:
    """A gradient of a tensor of this shape in every form that it can have."""
    normal = lambda *size: torch.randn(size, dtype=torch.float64)  # noqa: E731
    forms: list[FactoredGrad] = [DenseGrad(normal(N, *shape))]
    if len(shape) == 2:
        forms.append(OuterProductGrad(normal(N, 6, shape[1]), normal(N, 6, shape[0])))
    if len(shape) == 3:
        forms.append(BatchedOuterProductGrad(normal(N, shape[0], 6, shape[2]), normal(N, shape[0], 6, shape[1])))
    if shape[0] % N == 0:
        forms.append(row_per_example_grad(normal(*shape), N))
    return forms


def law_pulled_back(name: str) -> set[type[FactoredGrad]]:
    """Each example's gradient is the vector-Jacobian product that autograd computes; norms and sums follow from it."""
    parameter, tracked = derived(name)
    kinds: set[type[FactoredGrad]] = set()
    for grad in gradients(tuple(tracked.attached.shape)):
        ((label, pulled_back),) = tracked.pull_back(grad)
        kinds.add(type(pulled_back))
        rows = grad.dense().view(N, *tracked.attached.shape)
        expected = [torch.autograd.grad(tracked.attached, parameter, row, retain_graph=True)[0] for row in rows]
        assert label == "p"
        torch.testing.assert_close(pulled_back.dense().view(N, *parameter.shape), torch.stack(expected))
        torch.testing.assert_close(pulled_back.sq_norm(), torch.stack([e.square().sum() for e in expected]))
    return kinds


@pytest.mark.parametrize("name", VIEWS)
def test_pulled_back_as_autograd_does(name: str) -> None:
    law_pulled_back(name)


@pytest.mark.parametrize("name", ["T", "mT", "reshape", "view", "clone", "to", "rows of each example"])
def test_views_cost_no_backward_of_their_own(name: str) -> None:
    assert VjpGrad not in law_pulled_back(name)


def test_a_row_repeated_for_each_example_stays_small() -> None:
    """n rows, one of each example, are that many gradients of the one row, and not n times n."""
    _, tracked = derived("expand")
    rows = RowPerExampleGrad(torch.randn(N, 3, dtype=torch.float64), torch.arange(N), N)
    ((_, pulled_back),) = tracked.pull_back(rows)
    assert torch.equal(pulled_back.dense(), rows.grads[:, None])


def test_mutant_that_permutes_the_wrong_way_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = views._order
    inverse = lambda derived: [right(derived).index(i) for i in range(len(right(derived)))]  # noqa: E731
    monkeypatch.setattr(views, "_order", inverse)
    with pytest.raises((AssertionError, RuntimeError)):
        law_pulled_back("permute")
