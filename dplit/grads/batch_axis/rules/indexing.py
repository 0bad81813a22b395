"""Indexing, gathering and scattering."""

from __future__ import annotations

import torch
from torch import Tensor

from dplit.grads.batch_axis.axes import BatchAxis, InDim, Mixed, RowOwners, axis_at_depth
from dplit.grads.batch_axis.propagate import Call, ResultAxes, axis_rule, by_adding_an_example, default_rule
from dplit.grads.batch_axis.rules.rows import dim_argument, row_axis, row_axis_if_uniform
from dplit.grads.types import Index

T = Tensor


@axis_rule(T.__getitem__)
def indexed(call: Call) -> ResultAxes:
    """`x[index]`: the examples stay outermost where the first entry of the index takes the whole first dimension."""
    axis, index = call.axes.of(call.subject), call.args[1]
    index = index if isinstance(index, tuple) else (index,)
    first = index[0] if index else slice(None)
    whole = first is Ellipsis or first == slice(None) if not isinstance(first, Tensor) else False
    if axis is None and whole and not _scattered(index[1:]):
        return None
    if axis is None and first is None:
        return axis_at_depth(1, call.result.shape, call.axes.examples)
    if isinstance(axis, InDim | Mixed):
        return default_rule(call)
    if whole and axis is None:
        return by_adding_an_example(call)
    owners = call.axes.owners(call.subject)
    if owners is None:
        return Mixed("chosen from rows that are not one example's")
    if len(index) == 1 and not (isinstance(first, Tensor) and first.dtype == torch.bool and first.dim() > 1):
        return row_axis(call, owners[torch.tensor(first) if isinstance(first, list) else first])
    return row_axis_if_uniform(call, _of_numbers(owners, call.subject)[index])


def _of_numbers(owners: Tensor, value: Tensor) -> Tensor:
    """Return the owner of each number of a tensor from the owners of its rows."""
    return owners.view(-1, *[1] * (value.dim() - 1)).expand_as(value)


def _scattered(index: tuple[Index, ...]) -> bool:
    """Whether something stands between the index tensors, so that their dimensions come first in the result."""
    kinds = [isinstance(i, Tensor | list) for i in index]
    return any(kinds) and False in kinds[kinds.index(True) : len(kinds) - kinds[::-1].index(True)]


@axis_rule(torch.masked_select, T.masked_select, torch.take, T.take)
def selected(call: Call) -> ResultAxes:
    """A vector of chosen numbers."""
    if call.operation in (torch.take, T.take):
        return Mixed("numbers were taken from anywhere")
    owners = call.axes.owners(call.subject)
    if owners is None:
        return Mixed("chosen from rows that are not one example's")
    mask = call.argument(1, "mask").expand_as(call.subject)
    return row_axis(call, _of_numbers(owners, call.subject)[mask])


@axis_rule(torch.gather, T.gather, torch.take_along_dim, T.take_along_dim)
def gathered(call: Call) -> ResultAxes:
    """Numbers chosen along a dimension, which may be that of the examples."""
    return Mixed("gathered along the examples") if dim_argument(call, 1) == 0 else default_rule(call)


@axis_rule(
    *(torch.index_add, T.index_add, T.index_add_, torch.index_copy, T.index_copy, T.index_copy_),
    *(torch.scatter, T.scatter, T.scatter_, torch.scatter_add, T.scatter_add, T.scatter_add_, T.scatter_reduce_),
)
def scattered(call: Call) -> ResultAxes:
    """Rows written to rows of a tensor: each row must still belong to one example."""
    target, index = call.subject, call.argument(2, "index")
    if dim_argument(call, 1) != 0:
        return call.axes.of(target)
    source = call.argument(3, "source", "src", "value")
    owners = call.axes.owners(source) if isinstance(source, Tensor) else None
    if owners is None or index.dim() != 1:
        return Mixed("written along the examples")
    return _written(call, target, index, owners)


@axis_rule(T.__setitem__, T.index_put_, torch.index_put, T.index_put)
def placed(call: Call) -> ResultAxes:
    """Numbers written at an index: each row of the target must still belong to one example."""
    target, index, value = call.subject, call.args[1], call.argument(2, "values")
    if not isinstance(value, Tensor) or not value.dim() or call.constant(value):
        return call.axes.of(target)
    index = tuple(index) if isinstance(index, tuple | list) else (index,)
    owners = call.axes.owners(value)
    if owners is None or isinstance(call.axes.of(target), InDim | Mixed):
        return Mixed("written along the examples")
    owner_of_number = _of_numbers(_owners_before(call, target), target).clone()
    owner_of_number[index] = _of_numbers(owners, value)
    rows = owner_of_number.flatten(1) if owner_of_number.dim() > 1 else owner_of_number[:, None]
    owner = rows.amax(1)
    if bool(((rows != owner[:, None]) & (rows >= 0)).any()):
        return Mixed("numbers of several examples share a row")
    return _completed(owner, call.axes.examples)


def _owners_before(call: Call, target: Tensor) -> Tensor:
    """Return the owner of each row of a target before it is written to, -1 for rows of constants."""
    owners = None if call.constant(target) else call.axes.owners(target)
    return torch.full((len(target),), -1, device=target.device) if owners is None else owners


def _written(call: Call, target: Tensor, index: Tensor, owners: Tensor) -> BatchAxis | None:
    """Return the axis of a target after rows of `owners` were written to its rows `index`."""
    axis, before = call.axes.of(target), call.axes.owners(target)
    if axis is not None and not isinstance(axis, RowOwners):
        return Mixed("written into rows of several examples")
    if axis is None and call.constant(target):
        before = None
    after = index.new_full((len(target),), -1) if before is None else before.clone()
    if bool(((after[index] >= 0) & (after[index] != owners)).any()):
        return Mixed("rows of several examples were added up")
    after[index] = owners
    if bool((after[index] != owners).any()):
        return Mixed("rows of several examples were added up")
    return _completed(after, call.axes.examples)


def _completed(owner: Tensor, n: int) -> BatchAxis:
    """Return the axis of rows with these owners; -1 means that nothing was written to the row.

    Such rows are given to the examples that rows in regular order would belong to, if all other rows are in that order;
    otherwise every row must belong to an example.
    """
    if len(owner) % n == 0:
        regular = torch.arange(n, device=owner.device).repeat_interleave(len(owner) // n)
        if bool(((owner == regular) | (owner < 0)).all()):
            return RowOwners(regular, n)
    return RowOwners(owner, n) if bool((owner >= 0).all()) else Mixed("rows that nothing was written to")
