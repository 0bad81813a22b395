"""Whether two data sets hold a common record, as far as that can be seen from the objects they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from dplit.protocols import WrappedDataset
from dplit.sampling.units import People

Indices = NDArray[np.int64]
PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Values that Python may keep once for unrelated uses, so that the same object does not mean the same record."""


def share_records(one: object, other: object) -> bool | None:
    """Whether two map-style data sets hold a common record.

    Seen through `Subset`, `ConcatDataset` and dplit's own wrappers: the same data set at the same index; rows of
    `TensorDataset`s in the same memory; the same object in two lists.

    Returns:
        True or False where it is seen, False only for different indices of one data set; None where it is not.

    >>> records = TensorDataset(torch.zeros(9, 2))
    >>> share_records(Subset(records, [1, 2]), Subset(records, [2, 3]))
    True
    >>> share_records(Subset(records, [1, 2]), Subset(records, [3]))
    False
    """
    try:
        answers = [_common(a, b) for a in _parts(one) for b in _parts(other)]
    except TypeError:
        return None  # one has no length
    if True in answers:
        return True
    return None if None in answers or not answers else False


def _parts(dataset: Any, indices: Indices | None = None) -> Iterator[tuple[Any, Indices]]:
    """Yield the data sets that a data set is made of, with the indices that it takes from each."""
    if indices is None:
        indices = np.arange(len(dataset))
    if isinstance(dataset, Subset):
        chosen, inner = np.asarray(list(dataset.indices), dtype=np.int64), cast(Any, dataset.dataset)
        yield from _parts(inner, chosen[indices] % max(len(inner), 1))
    elif isinstance(dataset, People):
        yield from _parts(dataset.dataset, np.concatenate([dataset.members[i] for i in indices]))
    elif isinstance(dataset, WrappedDataset):
        yield from _parts(dataset.dataset, indices)
    elif isinstance(dataset, ConcatDataset):
        yield from _joined(dataset, indices)
    else:
        yield dataset, indices


def _joined(dataset: ConcatDataset[Any], indices: Indices) -> Iterator[tuple[Any, Indices]]:
    start = 0
    for part, end in zip(dataset.datasets, dataset.cumulative_sizes, strict=True):
        inside = indices[(indices >= start) & (indices < end)] - start
        if len(inside):
            yield from _parts(part, inside)
        start = end


def _common(one: tuple[Any, Indices], other: tuple[Any, Indices]) -> bool | None:
    if one[0] is other[0]:
        return bool(np.intersect1d(one[1], other[1]).size)
    seen = bool(_objects(*one) & _objects(*other)) or bool(np.intersect1d(_addresses(*one), _addresses(*other)).size)
    return True if seen else None


def _objects(dataset: Any, indices: Indices) -> set[int]:
    """Return which objects a list holds at the indices."""
    if not isinstance(dataset, list | tuple):
        return set()
    return {id(dataset[i]) for i in indices if not isinstance(dataset[i], PLAIN)}


def _addresses(dataset: Dataset[Any], indices: Indices) -> Indices:
    """Return where in memory the rows of a `TensorDataset`'s first tensor begin."""
    if not isinstance(dataset, TensorDataset) or not dataset.tensors or not dataset.tensors[0].dim():
        return np.empty(0, dtype=np.int64)
    first: torch.Tensor = dataset.tensors[0]
    return first.data_ptr() + indices * first.stride(0) * first.element_size()
