"""What operations do to the place of the examples: transposed, reshaped, gathered, scattered, or lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from dplit.grads.layout import Layout, Layouts, Lost, Rows, Within

T = Tensor


@dataclass(frozen=True)
class Call:
    """One operation that was carried out on activations."""

    layouts: Layouts
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
        return first if isinstance(first, Tensor) else first[0]  # type: ignore[no-any-return]

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def results(self) -> Iterator[Tensor]:
        """Yield the tensors that came out."""
        yield from (v for v in tree_flatten(self.result)[0] if isinstance(v, Tensor))


Move = Callable[[Call], Layout | Sequence[Layout | None] | None]
"""Returns the layout of what came out, or one for each of several tensors."""

MOVES: dict[Any, Move] = {}
"""Operations that may take the examples away from the outside."""


def follow(call: Call) -> None:
    """Note where the examples are in what an operation returned."""
    found = (call.subject,) if call.operation is T.__setitem__ else tuple(call.results())
    if not found:
        return
    move = MOVES.get(call.operation, carried)
    try:
        layouts = move(call)
    except Exception as error:
        layouts = Lost(f"{call.operation} could not be followed: {type(error).__name__}")
    each = layouts if isinstance(layouts, list) else [layouts] * len(found)
    for value, layout in zip(found, each, strict=True):
        call.layouts.put(value, layout)


def moves(*operations: Any) -> Callable[[Move], Move]:
    """Register what these operations do to the examples."""

    def register(function: Move) -> Move:
        MOVES.update(dict.fromkeys(operations, function))
        return function

    return register


# -- operations that keep every number -----------------------------------------------------------------------------


@moves(
    *(torch.transpose, torch.permute, torch.t, torch.movedim, torch.moveaxis, torch.swapaxes, torch.swapdims),
    *(T.transpose, T.permute, T.t, T.movedim, T.moveaxis, T.swapaxes, T.swapdims, torch.adjoint, T.adjoint),
    *(T.T.__get__, T.mT.__get__, T.H.__get__, T.mH.__get__),  # type: ignore[attr-defined]
    *(T.transpose_, T.t_, T.swapaxes_, T.swapdims_),
)
def turned(call: Call) -> Layout | None:
    """Permuted dimensions: ask the operation itself, on a tensor whose sizes tell them apart."""
    place = call.layouts.place(call.subject)
    if place is None:
        return Lost("rows of several examples were transposed")
    if place == (0, 1) and _apart_from_first(call):
        return None
    probe = torch.empty(list(range(2, 2 + call.subject.dim())), device="meta")
    order = [size - 2 for size in call.operation(probe, *call.args[1:], **_others(call)).shape]
    return Within(order.index(place[0]), place[1], call.layouts.examples)


def _apart_from_first(call: Call) -> bool:
    """Whether two dimensions were exchanged of which neither is the first: the frequent case, told at a glance."""
    dims = call.args[1:]
    if len(dims) != 2 or not all(isinstance(d, int) for d in dims):
        return False
    return 0 not in {d % call.subject.dim() for d in dims} and call.subject.dim() > 2


@moves(
    *(torch.reshape, torch.flatten, torch.unflatten, torch.ravel, torch.squeeze, torch.unsqueeze),
    *(T.view, T.reshape, T.flatten, T.unflatten, T.ravel, T.squeeze, T.unsqueeze, T.view_as, T.reshape_as),
    *(T.squeeze_, T.unsqueeze_, torch.clone, T.clone, T.contiguous, T.to, T.type, T.type_as, T.float, T.double),
    *(T.half, T.bfloat16, T.detach, torch.detach, T.detach_, T.cpu, T.cuda, T.long, T.int, T.bool, T.requires_grad_),
)
def reshaped(call: Call) -> Layout | None:
    """The same numbers in the same order."""
    subject, result = call.subject, call.result
    if subject.numel() != result.numel():
        return Lost("seen as another type")
    layout = call.layouts.of(subject)
    if isinstance(layout, Lost):
        return layout
    if isinstance(layout, Rows):
        return _regrouped(layout, len(result) if result.dim() else 0)
    depth = call.layouts.depth(subject)
    assert depth is not None
    return _located(depth, result.shape, call.layouts.examples)


def _located(depth: int, shape: Sequence[int], n: int) -> Layout | None:
    """Return where n examples are that have `depth` numbers outside of them in the flat order of this shape."""
    outside = 1
    for dim, size in enumerate(shape):
        if depth % outside == 0 and size % (depth // outside * n) == 0 and size > 0:
            return Within(dim, depth // outside, n)
        outside *= size
    return Lost("a reshape cut through the examples")


def _regrouped(layout: Rows, rows: int) -> Layout:
    have = len(layout.owner)
    if rows and rows % have == 0:
        return Rows(layout.owner.repeat_interleave(rows // have), layout.examples)
    if rows and have % rows == 0:
        parts = layout.owner.view(rows, -1)
        if bool((parts == parts[:, :1]).all()):
            return Rows(parts[:, 0].contiguous(), layout.examples)
    return Lost("rows of several examples were joined")


@moves(T.expand, T.expand_as, torch.broadcast_to, T.broadcast_to)
def expanded(call: Call) -> Layout | None:
    """Repeated along new or single dimensions; new ones come first."""
    place = call.layouts.place(call.subject)
    further = call.result.dim() - call.subject.dim()
    if place is None:
        return carried(call) if not further else Lost("rows of several examples were repeated")
    return Within(place[0] + further, place[1], call.layouts.examples)


# -- operations on rows --------------------------------------------------------------------------------------------


def _along(call: Call, position: int, default: int = 0) -> int | None:
    dim = call.argument(position, "dim", "axis", default=default)
    return dim % max(1, call.subject.dim()) if isinstance(dim, int) else None


def _rows(position: int, default: int = 0) -> Move:
    """Choosing, repeating or reordering along dimension 0 does the same to the rows' owners."""

    def move(call: Call) -> Any:
        if _along(call, position, default) != 0 or isinstance(call.layouts.of(call.subject), Within):
            return carried(call)
        owners = call.layouts.owners(call.subject)
        if owners is None:
            return Lost("rows were chosen where rows are not one example's")
        chosen = call.operation(owners, *call.args[1:], **_others(call))
        if isinstance(chosen, Tensor):
            return _owned(call, chosen)
        return [_owned(call, part) for part in chosen]

    return move


def _owned(call: Call, owner: Tensor) -> Layout | None:
    if owner.dim() != 1:
        return Lost("one row was chosen, which is one example's")
    return Rows(owner, call.layouts.examples)


for _operations, _position in (
    ((torch.index_select, T.index_select), 1),
    ((torch.narrow, T.narrow), 1),
    ((torch.select, T.select), 1),
    ((torch.split, T.split, torch.chunk, T.chunk, torch.tensor_split, T.tensor_split), 2),
    ((torch.unbind, T.unbind), 1),
    ((torch.repeat_interleave, T.repeat_interleave), 2),
):
    MOVES.update(dict.fromkeys(_operations, _rows(_position)))


@moves(torch.flip, T.flip, torch.roll, T.roll, torch.flipud, T.flipud)
def shifted(call: Call) -> Layout | None:
    """Flipped or rolled, which may be along the examples."""
    if isinstance(call.layouts.of(call.subject), Within):
        return carried(call)
    owners = call.layouts.owners(call.subject)
    if owners is None:
        return Lost("rows of several examples were shifted")
    wide = owners.view(-1, *[1] * (call.subject.dim() - 1)).expand_as(call.subject)
    return _uniform(call, call.operation(wide, *call.args[1:], **_others(call)))


@moves(torch.sort, T.sort, torch.topk, T.topk)
def sorted_(call: Call) -> Any:
    """Ordered by value: along dimension 0 only a vector's rows can be followed."""
    position, default = (2, -1) if call.operation in (torch.topk, T.topk) else (1, -1)
    if _along(call, position, default) != 0:
        return carried(call)
    owners = call.layouts.owners(call.subject)
    if owners is None or call.subject.dim() != 1:
        return Lost("sorted along the examples")
    return [Rows(owners[call.result[1]], call.layouts.examples)] * 2


@moves(torch.argsort, T.argsort)
def argsorted(call: Call) -> Layout | None:
    """Positions by value."""
    if _along(call, 1, -1) != 0:
        return carried(call)
    owners = call.layouts.owners(call.subject)
    return (
        Lost("sorted along the examples")
        if owners is None or call.subject.dim() != 1
        else _owned(call, owners[call.result])
    )


@moves(T.repeat, torch.tile, T.tile)
def repeated(call: Call) -> Layout | None:
    """Whole copies, one after the other."""
    owners = call.layouts.owners(call.subject)
    if call.result.dim() == call.subject.dim() and owners is not None:
        if len(call.result) == len(owners):
            return carried(call)
        return Rows(owners.repeat(len(call.result) // len(owners)), call.layouts.examples)
    return asked(call)


@moves(torch.cat, torch.concat, torch.concatenate)
def joined(call: Call) -> Layout | None:
    """Parts one after the other; along dimension 0 their rows keep their owners."""
    parts = call.argument(0, "tensors")
    if _along(call, 1) != 0 or any(isinstance(call.layouts.of(v), Within) for v in parts):
        return carried(call)
    owners = [call.layouts.owners(v) for v in parts if v.numel()]
    if any(v is None for v in owners) or any(call.constant(v) for v in parts):
        return Lost("rows were joined to others that are no example's")
    return Rows(torch.cat(owners), call.layouts.examples)  # type: ignore[arg-type]


@moves(torch.stack, torch.vstack, torch.row_stack)
def stacked(call: Call) -> Layout | None:
    """Side by side in a new dimension."""
    parts = call.argument(0, "tensors")
    if all(call.layouts.of(v) is None and (not v.dim() or len(v) % call.layouts.examples) for v in parts):
        return None
    places = {call.layouts.place(v) for v in parts}
    if len(places) > 1 or None in places or call.operation is not torch.stack:
        return Lost("stacked parts keep their examples in different places")
    ((dim, before),) = places  # type: ignore[misc]
    at = call.argument(1, "dim", default=0) % (parts[0].dim() + 1)
    return Within(dim + (at <= dim), before, call.layouts.examples)


# -- indexing ------------------------------------------------------------------------------------------------------


@moves(T.__getitem__)
def indexed(call: Call) -> Layout | None:
    """Indices whose first entry leaves the first dimension whole leave the examples outermost."""
    layout, index = call.layouts.of(call.subject), call.args[1]
    index = index if isinstance(index, tuple) else (index,)
    first = index[0] if index else slice(None)
    whole = first is Ellipsis or first == slice(None) if not isinstance(first, Tensor) else False
    if layout is None and whole and not _scattered(index[1:]):
        return None
    if layout is None and first is None:
        return _located(1, call.result.shape, call.layouts.examples)
    if isinstance(layout, Within | Lost):
        return carried(call)
    if whole and layout is None:
        return asked(call)
    owners = call.layouts.owners(call.subject)
    if owners is None:
        return Lost("chosen from rows that are not one example's")
    if len(index) == 1 and not (isinstance(first, Tensor) and first.dtype == torch.bool and first.dim() > 1):
        return _owned(call, owners[first]) if not isinstance(first, list) else _owned(call, owners[torch.tensor(first)])
    return _uniform(call, owners.view(-1, *[1] * (call.subject.dim() - 1)).expand_as(call.subject)[index])


def _scattered(index: tuple[Any, ...]) -> bool:
    """Whether index tensors stand apart, which puts their dimensions first."""
    kinds = [isinstance(i, Tensor | list) for i in index]
    return any(kinds) and False in kinds[kinds.index(True) : len(kinds) - kinds[::-1].index(True)]


def _uniform(call: Call, owner: Tensor) -> Layout | None:
    """Return the layout of a result each of whose numbers is this example's."""
    if not owner.dim():
        return Lost("one number was chosen, which is one example's")
    first = owner.reshape(len(owner), -1)[:, :1]
    if bool((owner.reshape(len(owner), -1) == first).all()):
        return Rows(first[:, 0].contiguous(), call.layouts.examples)
    return Lost("numbers of several examples share a row")


@moves(torch.masked_select, T.masked_select, torch.take, T.take)
def selected(call: Call) -> Layout | None:
    """A vector of chosen numbers."""
    if call.operation in (torch.take, T.take):
        return Lost("numbers were taken from anywhere")
    owners = call.layouts.owners(call.subject)
    if owners is None:
        return Lost("chosen from rows that are not one example's")
    mask = call.argument(1, "mask")
    return _owned(
        call, owners.view(-1, *[1] * (call.subject.dim() - 1)).expand_as(call.subject)[mask.expand_as(call.subject)]
    )


@moves(torch.gather, T.gather, torch.take_along_dim, T.take_along_dim)
def gathered(call: Call) -> Layout | None:
    """Numbers chosen along a dimension, which may be that of the examples."""
    return Lost("gathered along the examples") if _along(call, 1) == 0 else carried(call)


@moves(
    *(torch.index_add, T.index_add, T.index_add_, torch.index_copy, T.index_copy, T.index_copy_),
    *(torch.scatter, T.scatter, T.scatter_, torch.scatter_add, T.scatter_add, T.scatter_add_, T.scatter_reduce_),
)
def scattered(call: Call) -> Layout | None:
    """Rows written to rows of a tensor: each row must stay one example's."""
    target, index = call.subject, call.argument(2, "index")
    if _along(call, 1) != 0:
        return call.layouts.of(target)
    source = call.argument(3, "source", "src", "value")
    owners = call.layouts.owners(source) if isinstance(source, Tensor) else None
    if owners is None or index.dim() != 1:
        return Lost("written along the examples")
    return _written(call, target, index, owners)


@moves(T.__setitem__, T.index_put_, torch.index_put, T.index_put)
def placed(call: Call) -> Layout | None:
    """Numbers written at an index."""
    index, value = call.args[1], call.argument(2, "values")
    index = tuple(index) if isinstance(index, tuple | list) else (index,)
    first = index[0]
    if not isinstance(first, Tensor) or first.dtype == torch.bool:
        return call.layouts.of(call.subject)
    owners = (
        call.layouts.owners(value) if isinstance(value, Tensor) and value.dim() and not call.constant(value) else None
    )
    if owners is None or first.dim() != 1 or len(owners) != len(first):
        return Lost("written along the examples") if isinstance(value, Tensor) and value.requires_grad else None
    return _written(call, call.subject, first, owners)


def _written(call: Call, target: Tensor, index: Tensor, owners: Tensor) -> Layout | None:
    """Return the layout of a target whose rows `index` now hold rows of `owners`; of constant rows, nobody's yet."""
    layouts, rows = call.layouts, len(target)
    have = layouts.of(target)
    if isinstance(have, Rows):
        now = have.owner.clone()
    elif have is None and not call.constant(target) and rows % layouts.examples == 0:
        now = layouts.owners(target).clone()  # type: ignore[union-attr]
    elif have is None:
        now = index.new_full((rows,), -1)
    else:
        return Lost("written into rows of several examples")
    if bool(((now[index] >= 0) & (now[index] != owners)).any()):
        return Lost("rows of several examples were added up")
    now[index] = owners
    if bool((now[index] != owners).any()):
        return Lost("rows of several examples were added up")
    return _completed(now, layouts.examples)


def _completed(owner: Tensor, n: int) -> Layout:
    """Rows that hold nothing go to whoever has them if the rest is in order; otherwise each must be somebody's."""
    if len(owner) % n == 0:
        regular = torch.arange(n, device=owner.device).repeat_interleave(len(owner) // n)
        if bool(((owner == regular) | (owner < 0)).all()):
            return Rows(regular, n)
    return Rows(owner, n) if bool((owner >= 0).all()) else Lost("rows that nothing was written to")


# -- operations that add up ----------------------------------------------------------------------------------------

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
def reduced(call: Call) -> Any:
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
def contracted(call: Call) -> Layout | None:
    """Letters tell where the examples go."""
    equation, operands = call.args[0], call.args[1:]
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    data = [not call.constant(v) for v in operands]
    if isinstance(equation, str) and all(call.layouts.of(v) is None for v in operands):
        terms, _, after = equation.replace(" ", "").partition("->")
        firsts = {term[:1] for term, is_data in zip(terms.split(","), data, strict=True) if is_data}
        if len(firsts) == 1 and after.startswith(tuple(firsts)):
            return None
    return asked(call)


# -- everything else -----------------------------------------------------------------------------------------------


def carried(call: Call) -> Any:
    """Examples stay outermost where they are in all operands; what else there is goes with the rows or dimension."""
    given = [v for v in tree_flatten((call.args, dict(call.kwargs)))[0] if isinstance(v, Tensor)]
    marks = [m for v in given if (m := call.layouts.of(v)) is not None and (v.dim() or v.requires_grad)]
    lost = next((m for m in marks if isinstance(m, Lost)), None)
    if lost is not None:
        whole = [v.shape for v in given if call.layouts.of(v) is None and not call.constant(v)]
        return [None if v.shape in whole else lost for v in call.results()]
    if not marks:
        return None
    rows = next((m for m in marks if isinstance(m, Rows)), None)
    if rows is not None:
        return [_same_rows(rows, marks, v) for v in call.results()]
    return asked(call)


def asked(call: Call) -> Any:
    """Find the dimension that grows when there is one example more: the operation itself, on shapes alone, tells."""
    given = [v for v in tree_flatten((call.args, dict(call.kwargs)))[0] if isinstance(v, Tensor)]
    grown, before = _grown(call, given)
    return [_compared(call, v, g, before) for v, g in zip(call.results(), grown, strict=True)]


def _same_rows(rows: Rows, marks: list[Layout], result: Tensor) -> Layout | None:
    alike = all(isinstance(m, Rows) and torch.equal(m.owner, rows.owner) for m in marks)
    if alike and result.dim() and len(result) == len(rows.owner):
        return rows
    return Lost("rows of several examples met")


def _grown(call: Call, given: list[Tensor]) -> tuple[list[Tensor], int]:
    befores = {m.before for v in given if isinstance(m := call.layouts.of(v), Within)}
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
        return Lost("examples were mixed")
    (dim,) = changed
    if grown.shape[dim] * n != result.shape[dim] * (n + 1):
        return Lost("examples were mixed")
    return Within(dim, before, n)


def _others(call: Call) -> dict[str, Any]:
    """Keyword arguments without the subject, if that was one of them."""
    return {name: v for name, v in call.kwargs.items() if v is not call.subject}
