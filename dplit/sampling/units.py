"""What is drawn and clipped as one unit: all records of a person, and all copies of a record."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dplit.errors import ConfigurationError
from dplit.protocols import UnitSamples, WrappedDataset, fetch_samples, single_samples

UnitKey = str | int | Callable[[Any], Tensor | Sequence[str | int]]
"""Where a batch says whose each row is: a key, an index, or a function `batch -> (n,)` integers or n names."""


class People(WrappedDataset):
    """A data set of units, each with all its records.

    Args:
        dataset: of records.
        members: the indices of each unit's records.
        who: who each unit is, where that is known.
    """

    def __init__(
        self, dataset: Dataset[object], members: Sequence[NDArray[np.int64]], who: Sequence[Hashable] | None = None
    ) -> None:
        self.dataset, self.members, self.who = dataset, members, who

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> UnitSamples:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[UnitSamples]:
        """Return several units, each with all its records, fetched at once."""
        members = [self.members[index] for index in indices]
        samples = iter(fetch_samples(self.dataset, [int(record) for part in members for record in part]))
        units = [UnitSamples(single_samples(next(samples) for _ in part)) for part in members]
        for index, unit in zip(indices, units, strict=True):
            unit.who = None if self.who is None else self.who[index]
        return units


class SingleRecords(WrappedDataset):
    """The first single sample of each sample, where samples may be several, as those of a subset of `Copies` are."""

    def __init__(self, dataset: Dataset[object]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> object:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[object]:
        return [next(single_samples([sample])) for sample in fetch_samples(self.dataset, indices)]


def single_records(dataset: Dataset[object]) -> SingleRecords:
    """Return a data set of the single records below the wrappers, without copies."""
    while isinstance(dataset, WrappedDataset):
        dataset = dataset.dataset
    return SingleRecords(dataset)


def owners(samples: Sequence[object]) -> Tensor | None:
    """Return `(rows,)` int64: which of the samples each single sample belongs to; None where each is one by itself.

    Raises:
        ConfigurationError: a unit has no records.
    """
    if not any(isinstance(sample, UnitSamples) for sample in samples):
        return None
    sizes = [len(sample) if isinstance(sample, UnitSamples) else 1 for sample in samples]
    if not all(sizes):
        raise ConfigurationError("a unit without records cannot be trained on; leave it out of the data set")
    return torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(sizes, dtype=torch.int64))


def group_of_units(ids: Tensor, owner: Tensor | None) -> Tensor:
    """Return the group id of each unit, `(u,)`: that of its first row.

    A record's copies belong to its group whatever they say, and the records of a person were checked before the fit
    (`one_group_per_unit`): an error here would depend on who was drawn, and so would be a release.

    Args:
        ids: `(rows,)` group ids.
        owner: `(rows,)` the unit of each row; None where each row is a unit by itself.
    """
    return ids if owner is None else ids[first_rows(owner).to(ids.device)]


def first_rows(owner: Tensor) -> Tensor:
    """Return `(u,)`: the row at which each unit begins, from the `(rows,)` unit of each row."""
    changed = torch.ones_like(owner, dtype=torch.bool)
    changed[1:] = owner[1:] != owner[:-1]
    return changed.nonzero().flatten()


def one_group_per_unit(ids: NDArray[np.int64], members: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the group id of each unit, `(u,)`.

    Args:
        ids: `(N,)` the group of each record.
        members: the indices of each unit's records.

    Raises:
        ConfigurationError: records of one unit are in different groups.
    """
    if any((ids[part] != ids[part[0]]).any() for part in members):
        raise ConfigurationError(
            "the records of one unit are in different groups, so no group's rate or threshold holds for it; give a person "
            "one group"
        )
    return ids[[part[0] for part in members]]


def members(ids: Sequence[Hashable]) -> list[NDArray[np.int64]]:
    """Return the indices of each unit's records, from the `(N,)` unit of each record, in order of first appearance.

    Units are compared as Python objects: turned into numpy's numbers or strings, two different ones may become equal.

    >>> [part.tolist() for part in members(["ann", "bob", "ann"])]
    [[0, 2], [1]]
    """
    numbers: dict[Hashable, int] = {}
    unit = np.array([numbers.setdefault(name, len(numbers)) for name in ids], dtype=np.int64)
    order = np.argsort(unit, kind="stable")
    return np.split(order, np.cumsum(np.bincount(unit))[:-1])


def unit_name(key: UnitKey | None) -> str | None:
    """Return what statements and checkpoints call the key that says whose a record is; a function goes by its own name.

    >>> unit_name("user"), unit_name(2), unit_name(None)
    ('user', '2', None)
    """
    if key is None or not callable(key):
        return None if key is None else str(key)
    return str(getattr(key, "__qualname__", type(key).__name__))


def unit_ids(batch: Any, key: UnitKey) -> list[str | int]:
    """Read whom each row of a batch belongs to.

    Args:
        batch: what the collate function returned.
        key: where it says so: integers in a tensor of shape (n,), or a list of n names.

    Raises:
        ConfigurationError: the batch has no such entry, or the entry is neither.
    """
    try:
        entry = key(batch) if callable(key) else batch[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigurationError(
            f"the batch has no entry {key!r} that says whose records these are; set unit=..."
        ) from error
    if isinstance(entry, Tensor) and entry.dim() == 1 and not entry.is_floating_point():
        return list(entry.tolist())
    if isinstance(entry, list | tuple) and all(isinstance(name, str | int) for name in entry):
        return list(entry)
    raise ConfigurationError(f"unit={key!r} must give integers of shape (n,) or a list of n names")
