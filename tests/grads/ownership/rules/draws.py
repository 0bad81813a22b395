"""Random arguments of operations, each of which knows how to draw its numbers anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Call = Callable[..., Any]
Maker = Callable[["Draws", Any], Call]

CALLS: dict[str, Maker] = {}
"""By the name of an operation, what draws a random call of it; the arguments are left in the `Draws`."""


def calls(*names: str) -> Callable[[Maker], Maker]:
    """Register what draws random calls of these operations; it is given the draws and the operation."""

    def register(maker: Maker) -> Maker:
        CALLS.update(dict.fromkeys(names, maker))
        return maker

    return register


@dataclass
class Given:
    """An argument: its numbers, how to draw others, and the dimension whose slices are the examples' in an ordinary call."""

    value: Tensor
    again: Callable[[], Tensor]
    rows: int | None
    owners: Tensor | None = None
    """For rows that are not the examples: the example of each."""


@dataclass
class Draws:
    """What a random call is drawn from.

    Args:
        seed: of all that is drawn.
    """

    seed: int
    given: list[Given] = field(default_factory=list)
    mixes: bool = False
    """Whether the call was drawn to combine examples, as a sum over the rows does."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.n = self.random.randint(2, 4)

    def size(self, low: int = 2, high: int = 4) -> int:
        return self.random.randint(low, high)

    def sizes(self, low: int = 1, high: int = 3) -> list[int]:
        """Sizes of further dimensions, now and then one of 1 or 0."""
        sizes = [self.size() for _ in range(self.random.randint(low, high))]
        if sizes and self.random.random() < 0.1:
            sizes[self.random.randrange(len(sizes))] = self.random.choice([1, 1, 0])
        return sizes

    def shape(self, low: int = 1, high: int = 3) -> list[int]:
        return [self.n, *self.sizes(low, high)]

    def chance(self, p: float = 0.5) -> bool:
        return self.random.random() < p

    def one_of(self, *options: Any) -> Any:
        return self.random.choice(options)

    def dim(self, value: Tensor, ordinary: bool = True) -> int:
        """A dimension of a tensor, seldom the first, sometimes counted from the end."""
        first = 1 if value.dim() > 1 and self.chance(0.8) else 0
        d = self.random.randrange(first, value.dim())
        self.mixes |= d == 0
        return d if self.chance() else d - value.dim()

    # -- numbers ---------------------------------------------------------------------------------------------------------

    def _normal(self, shape: list[int]) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        kind = self.random.random()
        if kind < 0.25:
            return drawn * 100
        return (drawn * 1.5).round() if kind < 0.5 else drawn

    def _unit(self, shape: list[int]) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) * 0.96 + 0.02

    def _kind(self, kind: str, shape: list[int]) -> Tensor:
        if kind == "normal":
            return self._normal(shape)
        if kind == "unit":
            return self._unit(shape)
        if kind == "positive":
            return self._unit(shape) * self.random.choice([1, 3, 50])
        if kind == "single":
            return self._normal(shape).float()
        if kind == "bool":
            return self._unit(shape) < self.random.choice([0.3, 0.5, 0.7])
        if kind == "complex":
            return torch.complex(self._normal(shape), self._normal(shape))
        assert kind == "whole"
        return torch.randint(-4, 5, shape, generator=self.generator)

    def _put(self, draw: Callable[[], Tensor], rows: int | None, owners: Tensor | None = None) -> Tensor:
        value = draw()
        self.given.append(Given(value, draw, rows, owners))
        return value

    def rows(self, *shape: int, kind: str = "normal", dim: int = 0) -> Tensor:
        """Data: in an ordinary call, slice i along a dimension is example i's."""
        return self._put(lambda: self._kind(kind, list(shape)), dim)

    def fixed(self, *shape: int, kind: str = "normal") -> Tensor:
        """What is the same for all in an ordinary call, such as a parameter."""
        return self._put(lambda: self._kind(kind, list(shape)), None)

    def either(self, *shape: int, kind: str = "normal") -> Tensor:
        return self.rows(*shape, kind=kind) if self.chance(0.6) else self.fixed(*shape, kind=kind)

    def index(self, high: int, *shape: int, rows: int | None = None, low: int = 0) -> Tensor:
        """Whole numbers from `low` up to `high`, that excluded."""
        return self._put(lambda: torch.randint(low, max(high, low + 1), shape, generator=self.generator), rows)

    def places(self, high: int, *shape: int, distinct: bool = False) -> Tensor:
        """An index that is the same for all, perhaps without repetition."""
        if not distinct:
            return self.index(high, *shape)
        return self._put(lambda: torch.randperm(high, generator=self.generator)[: shape[0]], None)

    def of(self, draw: Callable[[], Tensor], owners: Tensor | None = None) -> Tensor:
        """An argument that is drawn in some other way, with the example of each of its rows."""
        return self._put(draw, None, owners)
