"""What operations do to the place of the examples. A file in `dplit/grads/propagates` adds its own by being there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from dplit.grads.batch_axis.layout import BatchAxes, InDim, Layout, Mixed, Rows

T = Tensor


@dataclass(frozen=True)
class Call:
    """One operation that was carried out on activations."""

    layouts: BatchAxes
    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    constant: Callable[[Tensor], bool]
    """Whether a tensor is the same whatever the examples are."""

    @property
    def subject(self) -> Tensor:
        """The tensor it was called on."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return first if isinstance(first, Tensor) else first[0]

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def results(self) -> Iterator[Tensor]:
        """Yield the tensors that came out."""
        yield from (v for v in tree_flatten(self.result)[0] if isinstance(v, Tensor))


Found = Layout | list[Layout | None] | None
"""The layout of what came out, or one for each of several tensors."""

Move = Callable[[Call], Found]

PROPAGATION: dict[Any, Move] = {}
"""Operations that may take the examples away from the outside."""


def follow(call: Call) -> None:
    """Note where the examples are in what an operation returned."""
    found = (call.subject,) if call.operation is T.__setitem__ else tuple(call.results())
    if not found:
        return
    move = PROPAGATION.get(call.operation, unchanged)
    try:
        layouts = move(call)
    except Exception as error:
        layouts = Mixed(f"{call.operation} could not be followed: {type(error).__name__}")
    each = layouts if isinstance(layouts, list) else [layouts] * len(found)
    for value, layout in zip(found, each, strict=True):
        call.layouts.put(value, layout)


KEEPS_AXIS: dict[Any, Callable[[tuple[Any, ...], Any, int], bool]] = {}
"""`(arguments, result, n)` to whether examples that were outermost are so still, where that shows at a glance."""


def stays(operation: Any, args: tuple[Any, ...], result: Any, examples: int) -> bool:
    """Whether an operation on activations that have the examples outermost plainly leaves them there."""
    return operation in KEEPS_AXIS and KEEPS_AXIS[operation](args, result, examples)


def load() -> None:
    """Import every file of `dplit.grads.batch_axis.rules`."""
    package = import_module("dplit.grads.batch_axis.rules")
    for module in iter_modules(package.__path__):
        import_module(f"dplit.grads.batch_axis.rules.{module.name}")


def propagates(
    *operations: Any, stays: Callable[[tuple[Any, ...], Any, int], bool] | None = None
) -> Callable[[Move], Move]:
    """Register what these operations do to the examples, and how to see at a glance that they do nothing."""

    def register(function: Move) -> Move:
        PROPAGATION.update(dict.fromkeys(operations, function))
        KEEPS_AXIS.update(dict.fromkeys(operations, stays) if stays else {})
        return function

    return register


def unchanged(call: Call) -> Found:
    """Examples stay outermost where they are in all operands; what else there is goes with the rows or dimension."""
    given = [v for v in tree_flatten((call.args, dict(call.kwargs)))[0] if isinstance(v, Tensor)]
    marks = [m for v in given if (m := call.layouts.of(v)) is not None and (v.dim() or v.requires_grad)]
    lost = next((m for m in marks if isinstance(m, Mixed)), None)
    if lost is not None:
        whole = [v.shape for v in given if call.layouts.of(v) is None and not call.constant(v)]
        return [None if v.shape in whole else lost for v in call.results()]
    if not marks:
        return None
    rows = next((m for m in marks if isinstance(m, Rows)), None)
    if rows is not None:
        return [_same_rows(rows, marks, v) for v in call.results()]
    return by_experiment(call)


def by_experiment(call: Call) -> Found:
    """Find the dimension that grows when there is one example more: the operation itself, on shapes alone, tells."""
    given = [v for v in tree_flatten((call.args, dict(call.kwargs)))[0] if isinstance(v, Tensor)]
    grown, before = _grown(call, given)
    return [_compared(call, v, g, before) for v, g in zip(call.results(), grown, strict=True)]


def _same_rows(rows: Rows, marks: list[Layout], result: Tensor) -> Layout | None:
    alike = all(isinstance(m, Rows) and torch.equal(m.owner, rows.owner) for m in marks)
    if alike and result.dim() and len(result) == len(rows.owner):
        return rows
    return Mixed("rows of several examples met")


def _grown(call: Call, given: list[Tensor]) -> tuple[list[Tensor], int]:
    befores = {m.before for v in given if isinstance(m := call.layouts.of(v), InDim)}
    (before,) = befores or {1}
    try:
        return _on_shapes(call, {id(v): _longer(call, v, call.constant(v)) for v in given}), before
    except RuntimeError:
        return _on_shapes(call, {id(v): _longer(call, v, fixed=False) for v in given}), before


def _on_shapes(call: Call, shapes: Mapping[int, list[int]]) -> list[Tensor]:
    meta = lambda v: torch.empty(shapes[id(v)], dtype=v.dtype, device="meta") if isinstance(v, Tensor) else v  # noqa: E731
    args, kwargs = tree_map(meta, (call.args, dict(call.kwargs)))
    return [v for v in tree_flatten(call.operation(*args, **kwargs))[0] if isinstance(v, Tensor)]


def _longer(call: Call, value: Tensor, fixed: bool) -> list[int]:
    n, shape = call.layouts.examples, list(value.shape)
    place = None if fixed else call.layouts.place(value)
    if place is not None and shape and shape[place[0]] % n == 0:
        shape[place[0]] = shape[place[0]] // n * (n + 1)
    return shape


def _compared(call: Call, result: Tensor, grown: Tensor, before: int) -> Layout | None:
    n = call.layouts.examples
    changed = [d for d in range(result.dim()) if result.shape[d] != grown.shape[d]]
    if len(changed) != 1 or result.dim() != grown.dim():
        return Mixed("examples were mixed")
    (dim,) = changed
    if grown.shape[dim] * n != result.shape[dim] * (n + 1):
        return Mixed("examples were mixed")
    return InDim(dim, before, n)


def others(call: Call) -> dict[str, Any]:
    """Keyword arguments without the subject, if that was one of them."""
    return {name: v for name, v in call.kwargs.items() if v is not call.subject}
