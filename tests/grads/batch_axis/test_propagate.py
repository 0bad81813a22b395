"""Operations without a rule of their own: the axis is kept, found by adding an example, or lost by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from torch import Tensor

from dplit.grads.batch_axis import propagate, rules
from dplit.grads.batch_axis.axes import BatchAxes, BatchAxis, InDim, Mixed, RowOwners

N = 3


def followed(
    operation: Callable[..., Tensor], x: Tensor, axis: BatchAxis | None, *constants: object
) -> tuple[BatchAxes, Tensor]:
    axes = BatchAxes(N)
    axes.put(x, axis)
    result = operation(x, *constants)
    propagate.follow(propagate.Call(axes, operation, (x, *constants), {}, result, lambda t: t is not x))
    return axes, result


@pytest.mark.parametrize(
    ("operation", "shape", "axis", "expected"),
    [
        (torch.tanh, (4, N, 2), InDim(1, 1, N), InDim(1, 1, N)),
        (lambda x: x @ torch.ones(2, 5, device=x.device), (4, N, 2), InDim(1, 1, N), InDim(1, 1, N)),
        (lambda x: x.softmax(0)[0], (4, N, 2), InDim(1, 1, N), None),
        (lambda x: x[..., None, :].expand(-1, -1, 7, -1), (4, N, 2), InDim(1, 1, N), InDim(1, 1, N)),
        (torch.tanh, (4 * N, 2), InDim(0, 4, N), InDim(0, 4, N)),
        (torch.tanh, (N, 2), None, None),
    ],
)
def test_the_axis_of_a_result(
    operation: Callable[..., Tensor], shape: tuple[int, ...], axis: BatchAxis | None, expected: BatchAxis | None
) -> None:
    axes, result = followed(operation, torch.randn(shape), axis)
    assert axes.of(result) == expected


def test_a_product_over_the_examples_is_mixed() -> None:
    axes, result = followed(torch.matmul, torch.randn(4, N), InDim(1, 1, N), torch.randn(N, N))
    assert isinstance(axes.of(result), Mixed)


def test_rows_that_meet_rows_of_others_are_mixed() -> None:
    axes, x, y = BatchAxes(N), torch.randn(4, 2), torch.randn(4, 2)
    axes.put(x, RowOwners(torch.tensor([0, 0, 1, 2]), N))
    axes.put(y, RowOwners(torch.tensor([0, 1, 1, 2]), N))
    for other, mixed in ((x, False), (y, True)):
        result = x + other
        propagate.follow(propagate.Call(axes, torch.add, (x, other), {}, result, lambda t: False))
        assert isinstance(axes.of(result), Mixed) == mixed


def test_what_is_mixed_stays_mixed() -> None:
    axes, result = followed(torch.tanh, torch.randn(4, 2), Mixed("for a test"))
    assert axes.of(result) == Mixed("for a test")


@pytest.mark.parametrize("name", [module.name for module in iter_modules(rules.__path__)])
def test_every_file_of_rules_registers_some(name: str) -> None:
    module = f"dplit.grads.batch_axis.rules.{name}"
    import_module(module)
    assert [f for f in propagate.AXIS_RULES.values() if f.__module__ == module]


def test_a_rule_that_fails_loses_track() -> None:
    """An operation that cannot be followed is mixed, never outermost."""
    axes, x = BatchAxes(N), torch.randn(4, N)
    axes.put(x, InDim(1, 1, N))

    def fails(value: Tensor) -> Tensor:
        raise ValueError("on shapes alone")

    result = x.clone()
    propagate.follow(propagate.Call(axes, fails, (x,), {}, result, lambda t: False))
    axis = axes.of(result)
    assert isinstance(axis, Mixed)
    assert "ValueError" in axis.why


@pytest.mark.parametrize(("dims", "stays"), [((1, 2), True), ((0, 1), False), ((-1, -2), True), ((-3, 1), False)])
def test_the_quick_test_of_a_transpose_is_right(dims: tuple[int, int], stays: bool) -> None:
    x = torch.randn(N, 4, 6)
    assert propagate.stays_outermost(torch.transpose, (x, *dims), x.transpose(*dims), N) is stays


def test_mutant_that_keeps_every_axis_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = lambda call: call.axes.of(call.subject)  # noqa: E731
    monkeypatch.setattr(propagate, "by_adding_an_example", keep)
    with pytest.raises(AssertionError):
        test_a_product_over_the_examples_is_mixed()
