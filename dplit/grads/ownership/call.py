"""One operation of a step, as the rules of ownership see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from dplit.grads.ownership.owner_map import NONE, Order, Owned, compact, constant, joined


@dataclass
class Call:
    """An operation that was carried out, with the owner maps that its tensors had before.

    Args:
        operation: of torch's own library, such as `aten.add.Tensor`.
        arguments: by the name that its schema gives; defaults included.
        maps: owner maps of the tensors among the arguments, by identity; constants are left out.
        results: the tensors it returned, in order.
        mixed: what an owner map says of numbers at which this operation mixed examples.
        examples: n.
        keys: what tells the tensors among the arguments by how they were computed, by identity.
    """

    operation: OpOverload
    arguments: Mapping[str, Any]
    maps: Mapping[int, Owned]
    results: list[Tensor]
    mixed: int
    examples: int
    keys: Mapping[int, int] = field(default_factory=dict)
    why: str = ""
    """Said in the message where this operation mixes."""
    conditional: bool = False
    """Set by a rule whose answer holds for these records only, so that it has to be asked again for others."""

    @property
    def name(self) -> str:
        """The operation's name without its overload, such as `add`."""
        return self.operation._schema.name.split("::")[1]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, *names: str, default: Any = None) -> Any:
        """Return the first of these arguments that the operation has."""
        return next((self.arguments[name] for name in names if name in self.arguments), default)

    def owned(self, value: Tensor) -> Owned:
        """Return the owner map of an argument."""
        return self.maps.get(id(value)) or constant(value.shape)

    def owner(self, value: Tensor | None) -> Tensor:
        """Return the owners of an argument's numbers; of None, those of a constant without dimensions."""
        return torch.tensor(NONE, dtype=torch.int32) if value is None else self.owned(value).owner

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors among the arguments."""
        for value in self.arguments.values():
            yield from tensors_of(value)

    def is_owned(self, value: Any) -> bool:
        """Whether an argument is a tensor that depends on some example."""
        owned = self.maps.get(id(value)) if isinstance(value, Tensor) else None
        return owned is not None and not owned.is_constant

    def refuse_order(self, *values: Tensor | None) -> bool:
        """Whether records decide the order of rows of one of these tensors, or how many there are."""
        return any(v is not None and self.owned(v).sized for v in values)

    def all_mixed(self, value: Tensor, why: str = "") -> Owned:
        """Return the map of a result of which every number may depend on every example that the arguments depend on."""
        self.why = self.why or why
        owners = {int(o) for v in self.tensors() for o in compact(self.owner(v)).unique().tolist()} - {NONE}
        ordered = self.refuse_order(*self.tensors())
        only = next(iter(owners)) if len(owners) == 1 and not ordered else self.mixed if owners or ordered else NONE
        # Of no numbers there are no owners, but that there are none may be decided by records.
        orders: tuple[Order, ...] = () if value.numel() or not ordered else (("mixed", only),) * value.dim()
        return Owned(torch.tensor(only, dtype=torch.int32).expand(value.shape), orders)

    def together(self, *owners: Tensor) -> Tensor:
        """Return the owners of numbers computed from one number of each map, broadcast against one another."""
        return joined(owners, self.mixed)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an argument, also those in lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of(part)


def orders_joined(call: Call, parts: list[tuple[Owned, int]], dim: int) -> tuple[tuple[Order, ...], bool]:
    """Return what decides the order of each dimension of a broadcast result, and whether rows of different orders meet.

    Args:
        call: the operation.
        parts: each map with its number of dimensions.
        dim: dimensions of the result.

    Where one part has rows and another numbers that are all the same, they are as many by chance, or because they were made so.
    """
    orders: list[Order] = [None] * dim
    clash = False
    for position in range(dim):
        apart: set[Order] = set()
        alike: set[Order] = set()
        for owned, dims in parts:
            own = position - (dim - dims)
            if own >= 0 and not (owned.owner.shape[own] == 1 and owned.orders[own] is None):
                (alike if owned.uniform else apart).add(owned.orders[own])
        seen = apart or alike
        orders[position] = next(iter(seen - {None}), None)
        clash |= len(apart) > 1
        call.conditional |= bool(apart) and not alike <= (apart | {None})
    return tuple(orders), clash
