"""Sums and contractions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dplit.grads.layout import Lost, Rows
from dplit.grads.motion import Call, Found, asked, carried, moves

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


@moves(*(getattr(owner, name) for owner in (torch, T) for name in _REDUCTIONS))
def reduced(call: Call) -> Found:
    """Sums and the like over some dimensions."""
    dim = call.argument(2 if "norm" in str(call.operation) else 1, "dim", "axis")
    if isinstance(dim, Tensor):
        return carried(call)
    dims = [dim] if isinstance(dim, int) else dim
    size = max(1, call.subject.dim())
    over = range(size) if not dims else [d % size for d in dims]
    layout = call.layouts.of(call.subject)
    if layout is None or isinstance(layout, Rows):
        return Lost("reduced over the examples") if 0 in over else layout
    return carried(call)


@moves(torch.einsum)
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
    return asked(call)
