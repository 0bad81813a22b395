"""Whether a collate function moves values between samples, found by collating with one sample replaced by another."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dplit.errors import CoupledExamples
from dplit.grads.coupling.generators import seeded
from dplit.protocols import fetch_samples
from dplit.sampling.units import single_records
from dplit.training.checks.loader import TrainLoader

Collate = Callable[[list[Any]], Any]
"""From samples to a batch."""
Leaves = dict[str, Any]
"""What stands at the ends of a batch, by its path as Python would write it."""

LOOKED_AT = 6
"""Samples in the batch in which they are replaced one by one."""
POOL = 18
"""Records that replacements are taken from: the longest, the shortest, and others."""
LOUD = 1e6
"""A sample's real numbers are multiplied by this where a collate function draws at random."""
HEARD = 1e3
"""A row this many times larger than any before holds a part of the loud sample."""
ATOMS = (str, bytes, int, float, complex, type(None))
"""Types of values that are compared as they are."""


class Layout(NamedTuple):
    """Where a batch has a row for each sample, and where it has something for all of them."""

    rows: dict[str, int]
    """Paths with a row for each sample, and the dimension in which they are; a list has them in dimension 0."""
    shared: frozenset[str]
    """Paths of what has one size whatever the number of samples."""


def check_collation(train: TrainLoader) -> None:
    """Look at the loader's own collate function with real records, before the first release.

    Raises:
        CoupledExamples: as `check_collate`.
    """
    dataset: Any = train.loader.dataset
    records = single_records(dataset)
    chosen = np.random.default_rng().permutation(len(records))[:POOL].tolist()
    check_collate(train.collate.collate, fetch_samples(records, chosen))


def check_collate(collate: Collate, samples: Sequence[Any]) -> None:
    """Refuse a collate function in which a sample is seen to change more than the row in its place.

    Each sample of a small batch is replaced by others: the longest, the shortest, any, and itself reversed. The rows of the
    others must stay in their places, bit by bit where they overlap: padding may follow the longest sample. What has no row
    for each sample must stay as a whole, unless it is the length that others are padded to.

    A collate function that draws at random is given the same random numbers each time, and is judged where sizes stay as
    they were, since otherwise its samples get other numbers; one that draws from a generator of its own is judged by
    whether a sample's numbers, a million times as large, are heard in another row. What no replacement showed is not seen.

    Args:
        collate: from a list of samples to a batch; it gets copies.
        samples: real records; the first few make the batch.

    Raises:
        CoupledExamples: naming the part of the batch.
    """
    base = list(samples[:LOOKED_AT])
    first, fewer = _collated(collate, base, 0), _collated(collate, base[:-1], 0)
    if len(base) < 2 or first is None or fewer is None:
        return
    lists = frozenset(_row_lists("batch", first, fewer))

    def leaves_of(chosen: Sequence[Any], seed: int) -> Leaves:
        batch = _collated(collate, chosen, seed)
        return {} if batch is None else dict(_leaves("batch", batch, lists))

    one, again, other = dict(_leaves("batch", first, lists)), leaves_of(base, 0), leaves_of(base, 1)
    layout = _layout(one, dict(_leaves("batch", fewer, lists)), len(base))
    steady, constant = _same_leaves(one, again), _same_leaves(one, other)
    for place in range(len(base)) if steady else ():
        for replacement in _replacements(base[place], samples, place):
            leaves = leaves_of(_with(base, place, replacement), 0)
            if layout.rows.keys() | layout.shared <= leaves.keys():
                for path in _moved(one, leaves, layout, place):
                    _refuse(path if constant or _certain(path, one, other, leaves, layout, place) else None)
    for place, sample in enumerate(() if constant else base):
        loud = leaves_of(_with(base, place, _mapped(sample, _loud)), place)
        _refuse(_heard(loud, (one, other), layout))


# -- samples -------------------------------------------------------------------------------------------------------------


def _replacements(sample: Any, samples: Sequence[Any], place: int) -> Iterator[Any]:
    """Yield what stands in for the sample at a place of the batch."""
    spare = [other for i, other in enumerate(samples) if i != place]
    by_size = sorted(spare, key=_size)
    yield from (by_size[-1], by_size[0], spare[-1 - place % len(spare)], _mapped(sample, _reversed))


def _with(base: Sequence[Any], place: int, sample: Any) -> list[Any]:
    return [*base[:place], sample, *base[place + 1 :]]


def _size(sample: Any) -> int:
    """Return how many numbers and letters a sample holds."""
    if isinstance(sample, Tensor | np.ndarray):
        return int(np.prod(sample.shape))
    if isinstance(sample, Mapping):
        return sum(map(_size, sample.values()))
    if isinstance(sample, str | bytes):
        return len(sample)
    return sum(map(_size, sample)) if isinstance(sample, list | tuple) else 1


def _mapped(sample: Any, change: Callable[[Any], Any]) -> Any:
    """Return a sample in which what stands at its ends is changed."""
    if isinstance(sample, Mapping):
        return {key: _mapped(value, change) for key, value in sample.items()}
    if isinstance(sample, tuple) and not hasattr(sample, "_fields"):
        return tuple(_mapped(value, change) for value in sample)
    return change(sample)


def _reversed(value: Any) -> Any:
    """Return the same numbers or words in another order."""
    if isinstance(value, Tensor):
        return value.flip(tuple(range(value.dim())))
    if isinstance(value, np.ndarray):
        return np.flip(value).copy()
    if isinstance(value, str):
        return " ".join(reversed(value.split(" ")))
    return value[::-1] if isinstance(value, list) else value


def _loud(value: Any) -> Any:
    real = isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")
    return value * LOUD if real or (isinstance(value, Tensor) and value.is_floating_point()) else value


# -- batches -------------------------------------------------------------------------------------------------------------


def _collated(collate: Collate, samples: Sequence[Any], seed: int) -> Any:
    """Return a batch of copies of these samples; None where it cannot be made, as the real draw will say."""
    with seeded(seed):
        try:
            return collate([copy.deepcopy(sample) for sample in samples])
        except Exception:
            return None


def _row_lists(path: str, batch: Any, fewer: Any) -> Iterator[str]:
    """Yield where a batch has a list with an entry for each sample, and so a shorter one of fewer samples."""
    children, others = _children(batch), _children(fewer)
    if isinstance(batch, list | tuple) and isinstance(fewer, list | tuple) and len(children) != len(others):
        yield path
    elif [step for step, _ in children] == [step for step, _ in others]:
        for (step, child), (_, other) in zip(children, others, strict=True):
            yield from _row_lists(path + step, child, other)


def _leaves(path: str, value: Any, lists: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Yield tensors, plain values and lists of rows with their paths; what else a batch may hold is not seen."""
    if path in lists:
        yield path, [str([(step, _key(leaf)) for step, leaf in _leaves("", row)]) for row in value or ()]
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
        yield path, torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, Tensor):
        yield from [(path, value.detach().cpu())] if value.layout is torch.strided else []
    elif isinstance(value, ATOMS):
        yield path, value
    else:
        for step, child in _children(value):
            yield from _leaves(path + step, child, lists)


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return []
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", child) for key, child in value.items()]
    if dataclasses.is_dataclass(value):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    return [(f"[{i}]", child) for i, child in enumerate(value)] if isinstance(value, list | tuple) else []


def _layout(batch: Leaves, fewer: Leaves, n: int) -> Layout:
    """Find rows by what changes its size with the number of samples, `n` and one fewer."""
    rows: dict[str, int] = {}
    shared = []
    for path in batch.keys() & fewer.keys():
        sizes, fewer_sizes = _shape(batch[path]), _shape(fewer[path])
        pairs = list(zip(sizes, fewer_sizes, strict=False)) if len(sizes) == len(fewer_sizes) else []
        if (n, n - 1) in pairs:
            rows[path] = pairs.index((n, n - 1))
        elif sizes == fewer_sizes:
            shared.append(path)
    return Layout(rows, frozenset(shared))


def _shape(leaf: Any) -> tuple[int, ...]:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape)
    return (len(leaf),) if isinstance(leaf, list | tuple) else ()


# -- comparisons ---------------------------------------------------------------------------------------------------------


def _same_leaves(a: Leaves, b: Leaves) -> bool:
    return a.keys() == b.keys() and all(_same(a[path], b[path]) for path in a)


def _same(a: Any, b: Any) -> bool:
    return _shape(a) == _shape(b) and _key(a) == _key(b)


def _key(value: Any) -> Any:
    """Return what two equal values have in common, NaN and types included."""
    if isinstance(value, Tensor):
        flat = value.contiguous().reshape(-1)
        return str(value.dtype), flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return repr(value)


def _moved(before: Leaves, after: Leaves, layout: Layout, place: int) -> Iterator[str]:
    """Yield the paths of what changed beside the row in this place."""
    for path in sorted(layout.shared):
        same_size = _shape(before[path]) == _shape(after[path])
        if same_size and not _same(before[path], after[path]) and not _is_padded_length(path, before, after):
            yield path
    for path, dim in sorted(layout.rows.items()):
        aligned = (_aligned(before[path], after[path], dim, side) for side in ("start", "end", "middle"))
        if not any(_others_stayed(rows, others, place) for rows, others in aligned):
            yield path


def _others_stayed(before: Sequence[Any], after: Sequence[Any], place: int) -> bool:
    return len(before) == len(after) and all(before[i] == after[i] for i in range(len(before)) if i != place)


def _aligned(before: Any, after: Any, dim: int, side: str) -> tuple[list[Any], list[Any]]:
    """Return the rows of both, cut to the size that they share, at their start, end or middle."""
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return [_key(row) for row in before], [_key(row) for row in after]
    a, b = before.movedim(dim, 0), after.movedim(dim, 0)
    sizes = [min(x, y) for x, y in zip(a.shape[1:], b.shape[1:], strict=False)] if a.dim() == b.dim() else []
    return _cut(a, sizes, side), _cut(b, sizes, side)


def _cut(rows: Tensor, sizes: Sequence[int], side: str) -> list[Any]:
    for d, size in enumerate(sizes, start=1):
        left = rows.shape[d] - size
        rows = rows.narrow(d, {"start": 0, "end": left, "middle": left // 2}[side], size)
    return [_key(row) for row in rows]


def _is_padded_length(path: str, before: Leaves, after: Leaves) -> bool:
    """Whether a number is a size of the batch it stands in, before and after, such as the length that rows are padded to."""
    return all(
        isinstance(leaves[path], int) and any(leaves[path] in _shape(leaf) for leaf in leaves.values())
        for leaves in (before, after)
    )


def _certain(path: str, one: Leaves, other: Leaves, after: Leaves, layout: Layout, place: int) -> bool:
    """Whether what changed did so for another reason than that samples got other random numbers.

    With sizes as they were, numbers drawn for all samples at once stay; those drawn sample by sample stay for the samples
    before the one that was replaced.
    """
    if any(_shape(one[known]) != _shape(after[known]) for known in (*layout.rows, *layout.shared)):
        return False
    if path in layout.shared:
        return _same(one[path], other[path])
    before, now = _aligned(one[path], after[path], layout.rows[path], "start")
    return before[:place] != now[:place]


def _heard(loud: Leaves, usual: Sequence[Leaves], layout: Layout) -> str | None:
    """Return the path at which a loud sample is heard in several rows, or None."""
    for path, dim in layout.rows.items():
        limit = HEARD * (1 + max(float(_loudness(batch.get(path), dim).max()) for batch in usual))
        if int((_loudness(loud.get(path), dim) > limit).sum()) > 1:
            return path
    return None


def _loudness(leaf: Any, dim: int) -> Tensor:
    """Return the largest real number of each row, or 0."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
        return torch.zeros(1)
    return leaf.double().nan_to_num(0.0, 0.0, 0.0).movedim(dim, 0).reshape(leaf.shape[dim], -1).abs().amax(1)


def _refuse(path: str | None) -> None:
    if path is not None:
        raise CoupledExamples(
            f"the collate function moves values between samples: {path} changes for others when one sample is replaced, so a "
            "record would reach the losses of others; compute it for each sample by itself, keep figures of the whole batch "
            "out of it, and the rows in the order of the samples"
        )
