"""Sums and contractions."""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.grads.batch_axis.axes import Mixed, RowOwners
from dplit.grads.batch_axis.propagate import Call, ResultAxes, axis_rule, by_adding_an_example, default_rule

T = Tensor


_REDUCTIONS = (
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "std",
    "var",
    "logsumexp",
    "prod",
    "norm",
    "median",
    "cumsum",
)


@axis_rule(*(getattr(owner, name) for owner in (torch, T) for name in _REDUCTIONS))
def reduced(call: Call) -> ResultAxes:
    """Sums, means, maxima and the like over some or all dimensions."""
    dim = call.argument(2 if "norm" in str(call.operation) else 1, "dim", "axis")
    if isinstance(dim, Tensor):
        return default_rule(call)
    dims = [dim] if isinstance(dim, int) else dim
    size = max(1, call.subject.dim())
    over = range(size) if not dims else [d % size for d in dims]
    axis = call.axes.of(call.subject)
    if axis is None or isinstance(axis, RowOwners):
        return Mixed("reduced over the examples") if 0 in over else axis
    return default_rule(call)


@axis_rule(torch.einsum)
def contracted(call: Call) -> ResultAxes:
    """Contractions: the letters of the equation show where the examples go."""
    equation, *operands = call.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    data = [not call.constant(v) for v in operands]
    if isinstance(equation, str) and all(call.axes.of(v) is None for v in operands):
        terms, _, after = equation.replace(" ", "").partition("->")
        firsts = {term[:1] for term, is_data in zip(terms.split(","), data, strict=True) if is_data}
        if len(firsts) == 1 and after.startswith(tuple(firsts)):
            return None
    return by_adding_an_example(call)
