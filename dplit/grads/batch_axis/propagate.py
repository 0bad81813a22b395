"""Following the batch axis through operations. A file in `dplit/grads/batch_axis/rules` adds its rules by being there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from dplit.discovery import modules
from dplit.grads.batch_axis.axes import BatchAxes, BatchAxis, InDim, Mixed, RowOwners
from dplit.grads.types import Args, Kwargs, Result, TorchFunction

T = Tensor


@dataclass(frozen=True)
class Call:
    """One operation that was carried out on activations."""

    axes: BatchAxes
    operation: TorchFunction
    args: Args
    kwargs: Kwargs
    result: Result
    constant: Callable[[Tensor], bool]
    """Whether a tensor is the same whatever the examples are."""

    @property
    def subject(self) -> Tensor:
        """The tensor that the operation was called on; the first one if it was called on a list."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return first if isinstance(first, Tensor) else first[0]

    def argument(self, position: int, *names: str, default: object = None) -> Any:
        """Return an argument by position or by one of its names."""
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments."""
        return [v for v in tree_flatten((self.args, dict(self.kwargs)))[0] if isinstance(v, Tensor)]

    def results(self) -> Iterator[Tensor]:
        """Yield the tensors that were returned."""
        yield from (v for v in tree_flatten(self.result)[0] if isinstance(v, Tensor))

    def applied_to(self, value: Tensor) -> Result:
        """Return what the operation gives for another subject and the same other arguments."""
        named = {name: v for name, v in self.kwargs.items() if v is not self.subject}
        return self.operation(value, *self.args[1:], **named)


ResultAxes = BatchAxis | list[BatchAxis | None] | None
"""The batch axis of a result, or of each of several results; None for outermost."""

AxisRule = Callable[[Call], ResultAxes]
"""From a call to the batch axes of its results."""

OutermostTest = Callable[[Args, Result, int], bool]
"""From arguments, result and n to whether examples that were outermost plainly stay so."""

AXIS_RULES: dict[TorchFunction, AxisRule] = {}
"""The rules of operations that may move the examples; `default_rule` serves the others."""

KEEPS_OUTERMOST: dict[TorchFunction, OutermostTest] = {}
"""Quick tests that spare the rule of an operation."""


def follow(call: Call) -> None:
    """Note where the examples are in what an operation returned, or in what it wrote to."""
    results = (call.subject,) if call.operation is T.__setitem__ else tuple(call.results())
    if not results:
        return
    rule = AXIS_RULES.get(call.operation, default_rule)
    try:
        axes = rule(call)
    except Exception as error:
        axes = Mixed(f"{call.operation} could not be followed: {type(error).__name__}")
    by_result = axes if isinstance(axes, list) else [axes] * len(results)
    for value, axis in zip(results, by_result, strict=True):
        call.axes.put(value, axis)


def stays_outermost(operation: TorchFunction, args: Args, result: Result, examples: int) -> bool:
    """Whether an operation on activations that have the examples outermost plainly leaves them there."""
    return operation in KEEPS_OUTERMOST and KEEPS_OUTERMOST[operation](args, result, examples)


def load() -> None:
    """Import every file of `dplit.grads.batch_axis.rules`."""
    modules("dplit.grads.batch_axis.rules", import_module("dplit.grads.batch_axis.rules").__path__)


def axis_rule(
    *operations: TorchFunction, keeps_outermost: OutermostTest | None = None
) -> Callable[[AxisRule], AxisRule]:
    """Register what these operations do to the batch axis, and optionally a quick test that they leave it outermost."""

    def register(function: AxisRule) -> AxisRule:
        AXIS_RULES.update(dict.fromkeys(operations, function))
        KEEPS_OUTERMOST.update(dict.fromkeys(operations, keeps_outermost) if keeps_outermost else {})
        return function

    return register


def default_rule(call: Call) -> ResultAxes:
    """Follow an operation without a rule of its own: examples that are outermost in all operands stay outermost.

    Row owners are kept where all operands have the same ones; examples in another dimension are followed by
    `by_adding_an_example`.
    """
    given = call.tensors()
    axes = [axis for v in given if (axis := call.axes.of(v)) is not None and (v.dim() or v.requires_grad)]
    mixed = next((axis for axis in axes if isinstance(axis, Mixed)), None)
    if mixed is not None:
        outermost = [v.shape for v in given if call.axes.of(v) is None and not call.constant(v)]
        return [None if v.shape in outermost else mixed for v in call.results()]
    if not axes:
        return None
    rows = next((axis for axis in axes if isinstance(axis, RowOwners)), None)
    if rows is not None:
        return [_same_rows(rows, axes, v) for v in call.results()]
    return by_adding_an_example(call)


def by_adding_an_example(call: Call) -> ResultAxes:
    """Run the operation on the shapes of one example more: the examples are in the dimension of the result that grows."""
    given = call.tensors()
    befores = {axis.before for v in given if isinstance(axis := call.axes.of(v), InDim)}
    (before,) = befores or {1}
    try:
        grown = _on_shapes(call, {id(v): _grown_shape(call, v, call.constant(v)) for v in given})
    except RuntimeError:
        grown = _on_shapes(call, {id(v): _grown_shape(call, v, constant=False) for v in given})
    return [_axis_that_grew(call, v, g, before) for v, g in zip(call.results(), grown, strict=True)]


def _same_rows(rows: RowOwners, axes: list[BatchAxis], result: Tensor) -> BatchAxis | None:
    same = all(isinstance(axis, RowOwners) and torch.equal(axis.owner, rows.owner) for axis in axes)
    if same and result.dim() and len(result) == len(rows.owner):
        return rows
    return Mixed("rows of several examples met")


def _on_shapes(call: Call, shapes: Mapping[int, list[int]]) -> list[Tensor]:
    meta = lambda v: torch.empty(shapes[id(v)], dtype=v.dtype, device="meta") if isinstance(v, Tensor) else v  # noqa: E731
    args, kwargs = tree_map(meta, (call.args, dict(call.kwargs)))
    return [v for v in tree_flatten(call.operation(*args, **kwargs))[0] if isinstance(v, Tensor)]


def _grown_shape(call: Call, value: Tensor, constant: bool) -> list[int]:
    n, shape = call.axes.examples, list(value.shape)
    position = None if constant else call.axes.position(value)
    if position is not None and shape and shape[position[0]] % n == 0:
        shape[position[0]] = shape[position[0]] // n * (n + 1)
    return shape


def _axis_that_grew(call: Call, result: Tensor, grown: Tensor, before: int) -> BatchAxis | None:
    n = call.axes.examples
    changed = [d for d in range(result.dim()) if result.shape[d] != grown.shape[d]]
    if len(changed) != 1 or result.dim() != grown.dim():
        return Mixed("examples were mixed")
    (dim,) = changed
    if grown.shape[dim] * n != result.shape[dim] * (n + 1):
        return Mixed("examples were mixed")
    return InDim(dim, before, n)
