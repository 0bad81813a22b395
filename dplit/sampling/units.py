"""What is drawn and clipped as one: all records of a person, and all copies of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.protocols import UnitSamples, WrappedDataset, fetch_samples, single_samples


class People(WrappedDataset):
    """Units, each with all its records.

    Args:
        dataset: of records.
        members: the indices of each unit's records.
        who: who each unit is, if that is to be told.
    """

    def __init__(self, dataset: Any, members: Sequence[NDArray[np.int64]], who: Sequence[Any] | None = None) -> None:
        self.dataset, self.members, self.who = dataset, members, who

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> UnitSamples:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[UnitSamples]:
        """Return several units, each with all its records."""
        own = [self.members[index] for index in indices]
        found = iter(fetch_samples(self.dataset, [int(i) for part in own for i in part]))
        units = [UnitSamples(single_samples(next(found) for _ in part)) for part in own]
        for index, unit in zip(indices, units, strict=True):
            unit.who = None if self.who is None else self.who[index]
        return units


class _Firsts(WrappedDataset):
    """Single records of a data set whose samples may be several, as those of a subset of `Copies` are."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return [next(single_samples([sample])) for sample in fetch_samples(self.dataset, indices)]


def single_records(dataset: Any) -> Any:
    """Return a data set of the single records below the wrappers, without copies."""
    while isinstance(dataset, WrappedDataset):
        dataset = dataset.dataset
    return _Firsts(dataset)


def owners(samples: Sequence[Any]) -> Tensor | None:
    """Return `(rows,)`: which of the samples each single sample belongs to; None where each is one by itself."""
    sizes = [len(sample) if isinstance(sample, UnitSamples) else 1 for sample in samples]
    if not any(isinstance(sample, UnitSamples) for sample in samples):
        return None
    if not all(sizes):
        raise ConfigurationError("a unit without records cannot be trained on; leave it out of the data set")
    return torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(sizes, dtype=torch.int64))


def group_of_units(ids: Tensor, owner: Tensor | None) -> Tensor:
    """Return the group id of each unit, `(u,)`, from those of its rows, `(rows,)`: its first row's.

    A record's copies are in its group whatever they say, and of persons it was asked before the fit (`one_group_per_unit`).
    An error that depends on who was drawn would be a release.
    """
    return ids if owner is None else ids[first_rows(owner).to(ids.device)]


def first_rows(owner: Tensor) -> Tensor:
    """Return `(u,)`: where the rows of each unit begin, from the `(rows,)` unit of each."""
    changed = torch.ones_like(owner, dtype=torch.bool)
    changed[1:] = owner[1:] != owner[:-1]
    return changed.nonzero().flatten()


def one_group_per_unit(ids: NDArray[np.int64], units: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the group id of each of `units`, given as the indices of its fetch_samples, from those of all fetch_samples, `(N,)`.

    Raises:
        ConfigurationError: records of one unit are in different groups.
    """
    if any((ids[part] != ids[part[0]]).any() for part in units):
        raise ConfigurationError(
            "the records of one unit are in different groups, so no group's rate or threshold holds for it; give a person "
            "one group"
        )
    return ids[[part[0] for part in units]]


def members(ids: Sequence[Any]) -> list[NDArray[np.int64]]:
    """Return the indices of each unit's records, from the `(N,)` unit of each record; who comes first is first.

    Names are told apart as they are: as numpy's numbers or strings, two might become one.
    """
    places: dict[Any, int] = {}
    unit = np.array([places.setdefault(one, len(places)) for one in ids], dtype=np.int64)
    order = np.argsort(unit, kind="stable")
    return np.split(order, np.cumsum(np.bincount(unit))[:-1])


def unit_name(key: Any) -> str | None:
    """Return what a statement and a checkpoint call the key that says whose a record is; a function by its own name."""
    return None if key is None else getattr(key, "__qualname__", type(key).__name__) if callable(key) else str(key)


def unit_ids(batch: Any, key: Any) -> list[Any]:
    """Read who each row of a batch belongs to: integers in a tensor, or a list of names.

    Raises:
        ConfigurationError: the batch has no such entry, or it is neither.
    """
    try:
        found = key(batch) if callable(key) else batch[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigurationError(
            f"the batch has no entry {key!r} that says whose records these are; set unit=..."
        ) from error
    if isinstance(found, Tensor) and found.dim() == 1 and not found.is_floating_point():
        return list(found.tolist())
    if isinstance(found, list | tuple) and all(isinstance(one, str | int) for one in found):
        return list(found)
    raise ConfigurationError(f"unit={key!r} must give integers of shape (n,) or a list of n names")
