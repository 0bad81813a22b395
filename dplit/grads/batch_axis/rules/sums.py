"""Sums and contractions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dplit.grads.batch_axis.layout import Mixed, Rows
from dplit.grads.batch_axis.propagate import Call, Found, by_experiment, propagates, unchanged

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


@propagates(*(getattr(owner, name) for owner in (torch, T) for name in _REDUCTIONS))
def reduced(call: Call) -> Found:
    """Sums and the like over some dimensions."""
    dim = call.argument(2 if "norm" in str(call.operation) else 1, "dim", "axis")
    if isinstance(dim, Tensor):
        return unchanged(call)
    dims = [dim] if isinstance(dim, int) else dim
    size = max(1, call.subject.dim())
    over = range(size) if not dims else [d % size for d in dims]
    layout = call.layouts.of(call.subject)
    if layout is None or isinstance(layout, Rows):
        return Mixed("reduced over the examples") if 0 in over else layout
    return unchanged(call)


@propagates(torch.einsum)
def contracted(call: Call) -> Found:
    """Letters tell where the examples go."""
    equation: Any = call.args[0]
    operands: Any = call.args[1:]
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    data = [not call.constant(v) for v in operands]
    if isinstance(equation, str) and all(call.layouts.of(v) is None for v in operands):
        terms, _, after = equation.replace(" ", "").partition("->")
        firsts = {term[:1] for term, is_data in zip(terms.split(","), data, strict=True) if is_data}
        if len(firsts) == 1 and after.startswith(tuple(firsts)):
            return None
    return by_experiment(call)
