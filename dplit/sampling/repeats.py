"""Records that a data set holds more than once, as far as `Subset`, `ConcatDataset`, `TensorDataset` and lists show it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from dplit.errors import PrivacyError
from dplit.protocols import WrappedDataset

ATOMS = (str, bytes, int, float, complex, type(None))
"""Types of values that Python may keep once for many: one object in two places says nothing of where it came from."""


class Origins(NamedTuple):
    """Where each of N records comes from: two records are one where they agree in both."""

    source: NDArray[np.int64]
    """`(N,)` the number of the data set below all wrappers."""
    place: NDArray[np.int64]
    """`(N,)` its index there."""


def check_repeats(dataset: Dataset[Any]) -> None:
    """Refuse a data set that is seen to hold a record more than once.

    Each time it would be drawn and clipped apart, so one record would count several times in a sum whose noise covers it
    once. Copies in memory, two data sets of the same files and the like are not seen.

    Raises:
        PrivacyError: naming the record and how often it is there.
    """
    found = origins(dataset)
    order = np.lexsort((found.place, found.source))
    source, place = found.source[order], found.place[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (source[1:] != source[:-1]) | (place[1:] != place[:-1])
    counts = np.diff(np.append(np.flatnonzero(new), len(order)))
    if not len(counts) or counts.max() == 1:
        return
    first = int(order[new][counts.argmax()])
    raise PrivacyError(
        f"record {first} of the {type(dataset).__name__} is in it {counts.max()} times, so it would count {counts.max()} times "
        "while the noise covers it once; keep each record once (for rates by group use GroupRates), or set unit=... to "
        "clip all records of a person together"
    )


def origins(dataset: Dataset[Any]) -> Origins:
    """Return where the records of a data set come from, seen through wrappers, `Subset` and `ConcatDataset`."""
    return _origins(dataset, {})


def _origins(dataset: Any, known: dict[Hashable, int]) -> Origins:
    """As `origins`; `known` numbers the sources seen so far."""
    dataset = _innermost(dataset)
    if isinstance(dataset, Subset):
        return _part(_origins(dataset.dataset, known), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        parts = [_origins(part, known) for part in dataset.datasets]
        return Origins(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    if isinstance(dataset, TensorDataset):
        return _of_tensors(dataset, known)
    if type(dataset) in (list, tuple):
        return _of_objects(dataset, known)
    return _whole(id(dataset), len(dataset), known)


def _innermost(dataset: Any) -> Any:
    """Return the data set below those that only change its samples, one by one."""
    seen: set[int] = set()
    while (inner := _wrapped(dataset)) is not None and id(dataset) not in seen:
        seen.add(id(dataset))
        dataset = inner
    return dataset


def _wrapped(dataset: Any) -> Any:
    """Return the one data set of the same length that this one keeps, such as that whose samples it transforms; else None."""
    if isinstance(dataset, Subset | ConcatDataset | TensorDataset):
        return None
    if isinstance(dataset, WrappedDataset):
        return dataset.dataset
    inner = [value for value in getattr(dataset, "__dict__", {}).values() if isinstance(value, Dataset)]
    return inner[0] if len(inner) == 1 and inner[0] is not dataset and _length(inner[0]) == len(dataset) else None


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _whole(key: Hashable, size: int, known: dict[Hashable, int], first: int = 0) -> Origins:
    """Return the origins of `size` neighbours of one source, from its place `first` on."""
    number = known.setdefault(key, len(known))
    return Origins(np.full(size, number), np.arange(first, first + size))


def _part(whole: Origins, indices: Sequence[int]) -> Origins:
    chosen = np.asarray(indices, dtype=np.int64)
    return Origins(whole.source[chosen], whole.place[chosen])


def _of_tensors(dataset: TensorDataset, known: dict[Hashable, int]) -> Origins:
    """Return origins by where rows lie in memory: views of one tensor share records."""
    size, moving = len(dataset), [t for t in dataset.tensors if t.dim() and t.stride(0)]
    if not moving or not size:
        return _whole(id(dataset), size, known)
    first = moving[0].storage_offset() // moving[0].stride(0)
    return _whole(tuple(_rows(t, first) for t in dataset.tensors), size, known, first)


def _rows(tensor: Tensor, first: int) -> Hashable:
    """Return which rows a tensor is made of, as if it began `first` rows earlier."""
    begin = tensor.storage_offset() - first * tensor.stride(0)
    return tensor.untyped_storage().data_ptr(), tensor.dtype, tensor.shape[1:], tensor.stride(), begin


def _of_objects(samples: Sequence[object], known: dict[Hashable, int]) -> Origins:
    """Return origins by the identity of the samples in a list, where a sample is more than a number or a name."""
    own = id(samples)
    numbers = [known.setdefault(_identity(sample) or (own, i), len(known)) for i, sample in enumerate(samples)]
    return Origins(np.array(numbers, dtype=np.int64), np.zeros(len(numbers), dtype=np.int64))


def _identity(sample: object) -> Hashable | None:
    """Return what says that two samples are one object; None for constants, which Python may share."""
    parts = sample if isinstance(sample, tuple) else (sample,)
    return None if all(isinstance(part, ATOMS) for part in parts) else ("object", id(sample))
