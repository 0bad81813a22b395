"""Whose are the numbers of a batch: the rows of its tensors, what is the same for all, and what has to be declared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dplit.errors import ConfigurationError
from dplit.grads.batch_axis.axes import Mixed, RowOwners
from dplit.grads.batch_layout import BatchLayout, Role, parts
from dplit.grads.ownership.owner_map import Owned, Positions, of_dim
from dplit.grads.ownership.ownership import Ownership
from dplit.grads.tape.path import Path
from dplit.grads.tape.tape import Tape
from dplit.grads.types import Batch

Rows = str | int | None
"""Key or index in a batch of a tensor, `(m,)`, that says to which example, from 0 to n - 1, each row of the others belongs."""


UNDECLARED = (
    "whose its rows are is not known, because they are not the examples; declare DPStrategy(rows=...), the key of a tensor that "
    "says which example each row belongs to"
)


@dataclass(frozen=True)
class BatchOwners:
    """Which example each row of a batch's tensors belongs to.

    A tensor whose first dimension is n exactly has a row for each example, and a tensor without dimensions is the same for all;
    where it was found out how the collate function makes batches, only what follows the number of samples has rows, and
    what never follows it is the same for all, whatever its size. Tensors with as many rows as a declared key belong to the
    examples that the key names. Whose the rest is, is not known, and it must not be used.

    Args:
        layout: how batches are made, if that was found out.
        rows: the declared key.
    """

    layout: BatchLayout | None = None
    rows: Rows = None

    def tell(self, ownership: Ownership, batch: Batch) -> None:
        """Tell an ownership whose the numbers of a batch are.

        Raises:
            ConfigurationError: the declared key names no examples.
        """
        n, key = ownership.examples, self.row_owners(batch, ownership.examples)
        for path, value in tensors_by_path(batch):
            role = self._role(path, value, n)
            if role is Role.ROWS:
                ownership.own_rows(value)
            elif role is Role.OTHER:
                declared = _declared(value, key, n)
                if declared is None:
                    ownership.own_unknown(value, f"{path} of shape {tuple(value.shape)}", UNDECLARED)
                else:
                    ownership.own(value, declared)
        ownership.python_data = self.has_python_data(batch)

    def tape(self, module: nn.Module, batch: Batch, examples: int, random_rows: bool = True) -> Tape:
        """Return a tape that knows whose the numbers of a batch are.

        Raises:
            ConfigurationError: the declared key names no examples.
        """
        steps = Path(examples) if examples > 1 else None
        tape = Tape(module, examples, random_rows=random_rows, python_data=self.has_python_data(batch), path=steps)
        key = self.row_owners(batch, examples)
        if steps is not None:
            steps.know(value for _, value in tensors_by_path(batch))
        for path, value in tensors_by_path(batch):
            role = self._role(path, value, examples)
            if role is Role.SHARED:
                tape.know_constant(value)
            elif role is Role.OTHER and key is not None and value.dim() and len(value) == len(key):
                tape.know_axis(value, RowOwners(key.to(value.device), examples))
            elif role is Role.OTHER:
                tape.know_axis(value, Mixed(f"whose the rows of {path} are is not known"))
        return tape

    def of_examples(self, batch: Batch, examples: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of a batch that have a row for each example, or are the same for all, with their paths."""
        for path, value in tensors_by_path(batch):
            if self._role(path, value, examples) is not Role.OTHER:
                yield path, value

    def row_owners(self, batch: Batch, examples: int) -> Tensor | None:
        """Return the example that each row of the declared tensors belongs to, `(m,)`, or None where nothing was declared.

        Raises:
            ConfigurationError: the key is not in the batch, or names no examples.
        """
        if self.rows is None:
            return None
        try:
            key: Any = batch[self.rows]
        except (KeyError, IndexError, TypeError) as error:
            raise ConfigurationError(f"rows={self.rows!r} is not in the batch") from error
        if not isinstance(key, Tensor) or key.dim() != 1 or key.is_floating_point() or key.dtype == torch.bool:
            raise ConfigurationError(
                f"rows={self.rows!r} must name a tensor of whole numbers, (m,): the example of each row"
            )
        if key.numel() and not (int(key.min()) >= 0 and int(key.max()) < examples):
            raise ConfigurationError(
                f"rows={self.rows!r} names examples from {int(key.min())} to {int(key.max())}; there are {examples}, from 0"
            )
        return key.cpu()

    def has_python_data(self, batch: Batch) -> bool:
        """Whether a batch holds values that are no tensors and follow the samples, such as texts."""
        for path, value in parts(batch):
            known = None if self.layout is None else self.layout.roles.get(path)
            if not isinstance(value, Tensor) and value is not None and known is not Role.SHARED:
                return True
        return False

    def _role(self, path: str, value: Tensor, examples: int) -> Role:
        fits = value.dim() > 0 and len(value) == examples
        known = None if self.layout is None else self.layout.roles.get(path)
        if known is Role.SHARED or (known is None and not value.dim()):
            return Role.SHARED
        return Role.ROWS if fits and known in (Role.ROWS, None) else Role.OTHER


def tensors_by_path(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch with their paths."""
    for path, value in parts(batch):
        if isinstance(value, Tensor):
            yield path, value


def _declared(value: Tensor, key: Tensor | None, examples: int) -> Owned | None:
    """Return the map of a tensor with as many rows as the declared key; the key itself names positions of the examples."""
    if key is None or not value.dim() or len(value) != len(key):
        return None
    owned = of_dim(value.shape, 0, key)
    itself = value.dim() == 1 and not value.is_floating_point() and torch.equal(value.cpu(), key)
    orders: Sequence[object] = ("declared rows", *[None] * (value.dim() - 1))
    return Owned(owned.owner, tuple(orders), meaning=Positions(torch.arange(examples)) if itself else None)
