"""Elementwise operations with a parameter that is broadcast: sums and differences, products and quotients, at any shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dplit.grads import Tape
from dplit.grads.rules import elementwise
from tests.grads.laws import Body, D, T, every_dtype, every_size, law_body, law_refused
from tests.oracle import loop_gradients

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, p: x + p,
    "add scaled": lambda x, p: torch.add(x, p, alpha=0.5) + torch.add(p, x, alpha=2),
    "sub": lambda x, p: x - p,
    "sub from": lambda x, p: p - x,
    "mul": lambda x, p: x * p,
    "mul by": lambda x, p: p.mul(x),
    "div": lambda x, p: x / (p + 4),
    "div by": lambda x, p: (p + 4) / (x.sigmoid() + 1),
    "in place": lambda x, p: x.clone().add_(p).mul_(p).sub_(p, alpha=3).div_(p + 4),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.number, self.row = nn.Parameter(torch.rand(())), nn.Parameter(torch.rand(D))
        self.places, self.column = nn.Parameter(torch.rand(1, T, D)), nn.Parameter(torch.rand(T, 1))


def every_shape(operation: Callable[[Tensor, Tensor], Tensor]) -> Body:
    return lambda m, x, ids: sum(operation(x, p) for p in (m.number, m.row, m.places, m.column)) + operation(x, m.row)


@every_dtype
@every_size
@pytest.mark.parametrize("name", OPERATIONS)
def test_exact(name: str, n: int, dtype: torch.dtype) -> None:
    law_body(Net(), every_shape(OPERATIONS[name]), n, dtype)


@pytest.mark.parametrize("name", ["add", "sub from", "mul", "div by"])
def test_exact_where_the_examples_are_in_another_dimension(name: str) -> None:
    operation = OPERATIONS[name]
    law_body(Net(), lambda m, x, ids: operation(operation(x.transpose(0, 1), m.row), m.number).transpose(0, 1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), name=st.sampled_from(sorted(OPERATIONS)))
def test_exact_for_parameters_of_any_shape(data: st.DataObject, name: str) -> None:
    """Each dimension of the parameter is missing, of size 1, or that of the activation."""
    n, inner = data.draw(st.integers(1, 4)), data.draw(st.lists(st.integers(1, 4), max_size=3))
    shape = [data.draw(st.sampled_from([1, size])) for size in inner][data.draw(st.integers(0, len(inner))) :]
    torch.manual_seed(n)
    module = nn.ParameterDict({"p": nn.Parameter(torch.rand(shape).double())})
    x = torch.randn(n, *inner).double()
    loss = lambda x: OPERATIONS[name](x, module["p"]).sin().reshape(len(x), -1).sum(1)  # noqa: E731
    expected = loop_gradients(module, lambda i: loss(x[i : i + 1]), n)
    with Tape(module, n) as tape:
        losses = loss(x)
    gradients, weights = tape.backward(losses), torch.linspace(0.5, 1.5, n, dtype=torch.float64)
    torch.testing.assert_close(gradients.norms(), expected["p"].reshape(n, -1).norm(dim=1))
    torch.testing.assert_close(gradients.weighted_sum(weights)["p"], torch.tensordot(weights, expected["p"], 1))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (lambda m, x, ids: m.row.add_(x[0, 0]), "writes into a parameter in place"),
        (lambda m, x, ids: torch.mul(x, m.row, out=torch.empty(0)), "not supported with out="),
        (lambda m, x, ids: x[:, 0, 0] * m.column, "does not keep the 5 examples outermost"),
        (lambda m, x, ids: x.mean(0) + m.row, "add on row .*in its examples"),
    ],
)
def test_refused(body: Body, named: str) -> None:
    law_refused(Net(), body, named)


def test_mutant_that_sums_over_the_examples_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example is given the mean of all examples' gradients."""
    right = elementwise.broadcast_grad
    mean = lambda grad: grad.mean(0, keepdim=True).expand_as(grad)  # noqa: E731
    monkeypatch.setattr(elementwise, "broadcast_grad", lambda grad, shape, n: right(mean(grad), shape, n))
    with pytest.raises(AssertionError):
        law_body(Net(), every_shape(OPERATIONS["mul"]))
