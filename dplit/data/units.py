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
    """Samples that are drawn and clipped as one: their gradients are averaged before the clip."""


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
        return [Together([sample, *self.copies(sample)]) for sample in records(self.dataset, indices)]


class People(Wrapped):
    """Units, each with all its records.

    Args:
        dataset: of records.
        members: the indices of each unit's records.
    """

    def __init__(self, dataset: Any, members: Sequence[NDArray[np.int64]]) -> None:
        self.dataset, self.members = dataset, members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Together:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Together]:
        """Return several units, each with all its records."""
        own = [self.members[index] for index in indices]
        found = iter(records(self.dataset, [int(i) for part in own for i in part]))
        return [Together(flat(next(found) for _ in part)) for part in own]


def plain(dataset: Any) -> Any:
    """Return the data set of single records below the wrappers."""
    while isinstance(dataset, Wrapped):
        dataset = dataset.dataset
    return dataset


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
    """Return the group id of each unit, `(u,)`, from those of its rows, `(rows,)`.

    Raises:
        ConfigurationError: rows of one unit are in different groups.
    """
    if owner is None or not len(ids):
        return ids
    owner = owner.to(ids.device)
    found = torch.zeros(int(owner[-1]) + 1, dtype=ids.dtype, device=ids.device).scatter_(0, owner, ids)
    if not bool((found[owner] == ids).all()):
        raise ConfigurationError(
            "the records of one unit are in different groups, so no group's rate or threshold holds for it; give a person "
            "one group"
        )
    return found


def members(ids: Sequence[Any]) -> list[NDArray[np.int64]]:
    """Return the indices of each unit's records, from the `(N,)` unit of each record."""
    _, unit = np.unique(np.asarray(ids), return_inverse=True)
    order = np.argsort(unit, kind="stable")
    return np.split(order, np.cumsum(np.bincount(unit))[:-1])


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
