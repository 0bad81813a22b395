"""What is drawn and clipped as one: all records of a person, and all copies of a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dplit.errors import ConfigurationError


class Together(list[Any]):
    """Samples that are drawn and clipped as one: their gradients are averaged before the clip.

    Attributes:
        who: whose records they are, where the data say.
    """

    who: Any = None


class Wrapped(Dataset[Any]):
    """A data set made of another's samples."""

    dataset: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


class Copies(Wrapped):
    """Each record with copies of it, such as augmentations or a text with its identity terms swapped.

    A record and its copies are averaged inside one clip and charged once; clipped one by one they would count as several
    records. Under a DP strategy the wrapper is all that is needed. A plain loader needs `collate_fn=flattened(collate)`.

    Args:
        dataset: map-style.
        copies: from a sample to its copies, the sample itself not among them. It sees nothing but the sample.

    Source: De et al. 2022, arXiv:2204.13650, section 3.2.
    """

    def __init__(self, dataset: Any, copies: Callable[[Any], Iterable[Any]]) -> None:
        self.dataset, self.copies = dataset, copies

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Together:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Together]:
        """Return several records, each with its copies."""
        found = (list(flat([sample])) for sample in records(self.dataset, indices))
        return [Together([*rows, *(copy for row in rows for copy in self.copies(row))]) for rows in found]


class People(Wrapped):
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

    def __getitem__(self, index: int) -> Together:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Together]:
        """Return several units, each with all its records."""
        own = [self.members[index] for index in indices]
        found = iter(records(self.dataset, [int(i) for part in own for i in part]))
        units = [Together(flat(next(found) for _ in part)) for part in own]
        for index, unit in zip(indices, units, strict=True):
            unit.who = None if self.who is None else self.who[index]
        return units


class _Firsts(Wrapped):
    """Single records of a data set whose samples may be several, as those of a subset of `Copies` are."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return [next(flat([sample])) for sample in records(self.dataset, indices)]


def plain(dataset: Any) -> Any:
    """Return a data set of the single records below the wrappers, without copies."""
    while isinstance(dataset, Wrapped):
        dataset = dataset.dataset
    return _Firsts(dataset)


def records(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Return the samples at these indices, all at once where the data set can."""
    if not len(indices):
        return []
    fetch = getattr(dataset, "__getitems__", None)
    return list(fetch(list(indices))) if callable(fetch) else [dataset[i] for i in indices]


def flat(samples: Iterable[Any]) -> Iterator[Any]:
    """Yield single samples, those that belong together one after the other."""
    for sample in samples:
        yield from sample if isinstance(sample, Together) else (sample,)


def flattened(collate: Callable[[list[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """Return a collate function for samples that belong together, outside a DP strategy: each copy is an example."""
    return lambda samples: collate(list(flat(samples)))


def owners(samples: Sequence[Any]) -> Tensor | None:
    """Return `(rows,)`: which of the samples each single sample belongs to; None where each is one by itself."""
    sizes = [len(sample) if isinstance(sample, Together) else 1 for sample in samples]
    if not any(isinstance(sample, Together) for sample in samples):
        return None
    if not all(sizes):
        raise ConfigurationError("a unit without records cannot be trained on; leave it out of the data set")
    return torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(sizes, dtype=torch.int64))


def of_units(ids: Tensor, owner: Tensor | None) -> Tensor:
    """Return the group id of each unit, `(u,)`, from those of its rows, `(rows,)`: its first row's.

    A record's copies are in its group whatever they say, and of persons it was asked before the fit (`same_of_units`).
    An error that depends on who was drawn would be a release.
    """
    return ids if owner is None else ids[firsts(owner).to(ids.device)]


def firsts(owner: Tensor) -> Tensor:
    """Return `(u,)`: where the rows of each unit begin, from the `(rows,)` unit of each."""
    changed = torch.ones_like(owner, dtype=torch.bool)
    changed[1:] = owner[1:] != owner[:-1]
    return changed.nonzero().flatten()


def same_of_units(ids: NDArray[np.int64], units: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the group id of each of `units`, given as the indices of its records, from those of all records, `(N,)`.

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


def called(key: Any) -> str | None:
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
