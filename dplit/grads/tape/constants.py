"""Which tensors are constant: buffers, frozen parameters, `arange` and the like, and what is computed from them alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dplit.grads.types import Result, TorchFunction

READS_VALUES = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.frombuffer})
"""Operations that bring in values from outside torch."""

DRAWS_RANDOM = frozenset({torch.rand, torch.randn, torch.randint, torch.normal, torch.empty})
"""Operations that draw numbers of given sizes."""


class Makes(Protocol):
    """What decides whether an operation without data makes some."""

    examples: int
    random_rows: bool
    python_data: bool


class Constants:
    """A set of tensors by identity, which does not keep them alive."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[Tensor]] = {}

    def add(self, value: Tensor) -> None:
        """Add a tensor."""
        self._refs[id(value)] = weakref.ref(value)

    def discard(self, value: Tensor) -> None:
        """Remove a tensor if it is in the set."""
        self._refs.pop(id(value), None)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield those that are alive."""
        yield from (value for ref in list(self._refs.values()) if (value := ref()) is not None)

    def __contains__(self, value: Tensor) -> bool:
        ref = self._refs.get(id(value))
        return ref is not None and ref() is value


def makes_data(operation: TorchFunction, result: Result, step: Makes) -> bool:
    """Whether an operation on constants alone, or on no tensors, makes data: rows of which each is an example's.

    What has no data among its ancestors belongs to no example. The exceptions have n rows exactly: random numbers, such as a
    latent vector for each example, as long as nothing shows that they are for all; and what Python makes of a batch's own lists.
    """
    makes = step.random_rows if operation in DRAWS_RANDOM else operation in READS_VALUES and step.python_data
    return makes and isinstance(result, Tensor) and result.dim() > 0 and len(result) == step.examples
