"""Owner maps: for each number of a tensor, the one example it depends on, or none, or several."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

NONE = -1
"""The number depends on no example: it is a constant, a parameter or random."""

SEVERAL = -2
"""The number may depend on several examples. `SEVERAL - k` says that it was the k-th mixing operation that made it so."""

_LARGE = torch.iinfo(torch.int32).max

Order = Hashable | None
"""How the rows along a dimension are arranged: None for an order that no record decides, otherwise what decided it."""


@dataclass(frozen=True)
class Positions:
    """The numbers are positions of rows; each is owned by the example that owns the row, whatever the records are."""

    owners: Tensor
    """`(m,)`: the example that owns each position that may be named."""


@dataclass(frozen=True)
class Columns:
    """Rows of numbers of which each column means something else, as `nonzero` returns them."""

    meanings: tuple[Positions | None, ...]


@dataclass(frozen=True)
class Ranks:
    """The inverse of an order that records or chance decided: index r brings the r-th place back its row."""

    order: Hashable
    """The order of the rows that are brought back."""
    owners: Tensor | None
    """`(m,)`: the example that owns each place; None where the order was drawn, so that any rows may be brought back."""


@dataclass(frozen=True)
class Shuffle:
    """A random order of rows."""

    key: Hashable
    """What tells it from others."""


@dataclass(frozen=True)
class RowNumbers:
    """The numbers from 0 to n - 1, so that row i of a tensor is read for example i in each batch, whatever n is."""


@dataclass(frozen=True)
class SortedKeys:
    """The keys that rows were sorted by, in their order."""

    keys: Hashable
    """What tells the tensor of keys."""


@dataclass(frozen=True)
class Counts:
    """How many rows have each key, or running totals of that: from totals and a place, the key of the row there follows."""

    keys: Hashable
    """What tells the tensor of keys; rows sorted by it are in the order `("sorted", keys)`."""
    rows: Owned | None = None
    """The map of the sorted keys, where they were counted."""


Source = Literal["same", "given", "drawn"]
"""Where the values of a constant come from: from shapes and numbers in the code, so that they are the same in each step; from
elsewhere, such as a buffer; or from a generator of random numbers."""

Meaning = Positions | Columns | Ranks | Shuffle | RowNumbers | SortedKeys | Counts | None
"""What a tensor of whole numbers stands for, where an index into rows has to be followed."""


@dataclass(frozen=True)
class Owned:
    """The owner map of a tensor.

    Args:
        owner: int32 in the tensor's shape; a dimension along which it does not change has stride 0.
        orders: for each dimension, what decides the order of its rows.
        uniform: all numbers are the same, so that no order can be seen; how many there are can.
        meaning: what the numbers stand for, where they are positions.
        source: where the values of a constant come from.
    """

    owner: Tensor
    orders: tuple[Order, ...] = ()
    uniform: bool = False
    meaning: Meaning = field(default=None, compare=False)
    source: Source = "given"

    def __post_init__(self) -> None:
        if not self.orders:
            object.__setattr__(self, "orders", (None,) * self.owner.dim())

    @property
    def ordered(self) -> bool:
        """Whether records decide the order of some dimension."""
        return not self.uniform and any(order is not None for order in self.orders)

    @property
    def sized(self) -> bool:
        """Whether records decide the number of rows along some dimension, or their order; also where all numbers are the same."""
        return any(order is not None for order in self.orders)

    @property
    def is_nobodys(self) -> bool:
        """Whether no number depends on any example."""
        return bool((compact(self.owner) == NONE).all())

    @property
    def is_constant(self) -> bool:
        """Whether no number depends on any example, nor does the order of the numbers, nor how many there are."""
        return not self.sized and self.is_nobodys

    def plain(self) -> Owned:
        """Return the same map of a tensor whose numbers stand for nothing in particular."""
        return replace(self, meaning=None, uniform=False)


def keeps_number(order: Order) -> bool:
    """Whether an order only arranges rows, of which there are as many whatever the records are."""
    return order is None or (isinstance(order, tuple) and order[0] in ("sorted", "shuffled"))


def constant(shape: Sequence[int], uniform: bool = False, source: Source = "given") -> Owned:
    """Return the map of a tensor that depends on no example."""
    return Owned(torch.tensor(NONE, dtype=torch.int32).expand(tuple(shape)), uniform=uniform, source=source)


def common_source(sources: Iterable[Source]) -> Source:
    """Return where what is computed from several constants comes from; from none, the code."""
    given = set(sources)
    return "drawn" if "drawn" in given else "given" if "given" in given else "same"


def of_dim(shape: Sequence[int], dim: int, owners: Tensor) -> Owned:
    """Return the map of a tensor whose slices along one dimension belong to these examples, `(shape[dim],)`."""
    view = [1] * len(shape)
    view[dim] = len(owners)
    return Owned(owners.to(torch.int32).view(view).expand(tuple(shape)))


def compact(owner: Tensor) -> Tensor:
    """Return an owner map with size 1 in the dimensions along which it does not change."""
    for dim, (size, stride) in enumerate(zip(owner.shape, owner.stride(), strict=True)):
        if stride == 0 and size > 1:
            owner = owner.narrow(dim, 0, 1)
    return owner


def tidied(owner: Tensor) -> Tensor:
    """Return the same map with stride 0 in every dimension along which it does not change."""
    small = compact(owner)
    for dim, size in enumerate(small.shape):
        if size > 1 and bool((small == small.narrow(dim, 0, 1)).all()):
            small = small.narrow(dim, 0, 1)
    if small.untyped_storage().nbytes() > 2 * small.numel() * small.element_size():
        small = small.clone()  # lets go of the numbers that were left out
    return small.expand(owner.shape)


def joined(maps: Iterable[Tensor], mixed: int) -> Tensor:
    """Return the owners of numbers that are computed from one number of each map, broadcast against one another.

    Args:
        maps: owner maps.
        mixed: what to write where different examples meet.
    """
    total: Tensor | None = None
    shape = torch.Size()
    for owner in maps:
        shape = torch.broadcast_shapes(shape, owner.shape)
        small = compact(owner)
        total = small if total is None else _join(total, small, mixed)
    assert total is not None
    return total.expand(shape)


def _join(a: Tensor, b: Tensor, mixed: int) -> Tensor:
    a, b = torch.broadcast_tensors(a, b)
    several = torch.where(a < NONE, a, torch.where(b < NONE, b, mixed))
    return torch.where((a == b) | (b == NONE), a, torch.where(a == NONE, b, several)).to(torch.int32)


def joined_over(owner: Tensor, dims: Iterable[int], mixed: int, keepdim: bool = True) -> Tensor:
    """Return the owners of numbers that are each computed from all numbers along some dimensions.

    Args:
        owner: an owner map.
        dims: the dimensions; all of them if empty has to be said by the caller.
        mixed: what to write where different examples meet.
        keepdim: whether the dimensions stay, with size 1.
    """
    dims = sorted({d % max(1, owner.dim()) for d in dims}) if owner.dim() else []
    small = compact(owner)
    wide = [d for d in dims if small.shape[d] != 1]
    shape = [1 if d in dims else size for d, size in enumerate(owner.shape)]
    if any(owner.shape[d] == 0 for d in dims):
        small = torch.full([1 if d in dims else s for d, s in enumerate(small.shape)], NONE, dtype=torch.int32)
    elif wide:
        small = _join_all(small, wide, mixed)
    result = small.expand(shape)
    return result if keepdim else squeezed(result, dims)


def _join_all(owner: Tensor, dims: list[int], mixed: int) -> Tensor:
    low = torch.where(owner >= 0, owner, _LARGE).amin(dims, keepdim=True)
    high = owner.amax(dims, keepdim=True)
    several = torch.where(owner < NONE, owner, -_LARGE).amax(dims, keepdim=True)
    together = torch.where((low == high) | (high == NONE), high, mixed)
    return torch.where(several > -_LARGE, several, together).to(torch.int32)


def squeezed(owner: Tensor, dims: Iterable[int]) -> Tensor:
    """Return a map without these dimensions, which have size 1."""
    for dim in sorted(dims, reverse=True):
        owner = owner.select(dim, 0)
    return owner


def reshaped(owner: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the map of the same numbers in row-major order in another shape, copied only where examples are regrouped."""
    if 0 in owner.shape:
        return torch.tensor(NONE, dtype=torch.int32).expand(tuple(shape))
    if not owner.dim():
        return owner.reshape(tuple(shape))
    small = compact(owner)
    # From the last group to the first, so that the dimensions before it keep their numbers.
    for source, target in reversed(_groups(owner.shape, shape)):
        before, here, after = (
            small.shape[: source[0]],
            small.shape[source[0] : source[-1] + 1],
            small.shape[source[-1] + 1 :],
        )
        sizes = [1] * len(target)
        if any(size != 1 for size in here):
            small = small.expand(*before, *(owner.shape[d] for d in source), *after)
            sizes = [shape[d] for d in target]
        small = small.reshape(*before, *sizes, *after)
    return small.expand(tuple(shape))


def _groups(source: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return which dimensions of a shape become which of another, in the smallest groups of equal sizes."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        left, right, a, b = [], [], 1, 1
        if i < len(source):
            left, a, i = [i], source[i], i + 1
        if j < len(target):
            right, b, j = [j], target[j], j + 1
        while a != b:
            if a < b:
                left, a, i = [*left, i], a * source[i], i + 1
            else:
                right, b, j = [*right, j], b * target[j], j + 1
        if left and right:
            groups.append((left, right))
        else:  # only dimensions of size 1 are left over on one side: they join the group before
            groups[-1][0].extend(left)
            groups[-1][1].extend(right)
    return groups


def first_pair(owner_maps: Iterable[Tensor]) -> tuple[int, int] | None:
    """Return two different examples among the owners of these maps, for a message; None if there are not two."""
    values = torch.cat([compact(owner).unique().flatten() for owner in owner_maps] or [torch.zeros(0)])
    examples: list[Any] = sorted({int(v) for v in values.tolist() if v >= 0})
    return (examples[0], examples[-1]) if len(examples) > 1 else None
