"""Companions that make coupling show: samples with huge values, with each label, the longest and the shortest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dplit.grads.types import Args, Kwargs, Result, Sample, TorchFunction

Path = tuple[object, ...]
"""Keys and indices that lead to a value within a sample."""

SCALES = (1e3, 1e6)
"""What values are multiplied by."""
MOST_LABELS = 64
"""A whole number that takes more values than this in the records is no label, but an id."""
FEW = 4
"""Samples that are kept of each label."""
LABELS = 6
"""Values of a label that are tried, the rarest first."""


class Company(NamedTuple):
    """Samples to put in the places of others."""

    name: str
    samples: Sequence[Sample]


def companies(samples: Sequence[Sample], pool: Sequence[Sample], classes: int | None = None) -> list[Company]:
    """Return companies of each kind that the records allow.

    Args:
        samples: those that are examined; scaled ones, and ones with a label that no record has, are made of them.
        pool: more records, of which the labels and the longest and shortest are taken.
        classes: a declared number of classes.

    Example:
        >>> [company.name for company in companies([(1.5, 0)], [(1.5, 0), (2.5, 3)])]
        ['with values times 1000', 'with values times 1e+06', 'with label 0', 'with label 3']
    """
    kinds = [
        Company(f"with values times {scale:g}", [scaled(s, scale) for s in samples])
        for scale in SCALES
        if _has_floats(samples)
    ]
    kinds += _labelled(samples, pool, classes)
    lengths = [length(sample) for sample in pool]
    if lengths and min(lengths) < max(lengths):
        kinds.append(Company("with the longest record", [pool[lengths.index(max(lengths))]]))
        kinds.append(Company("with the shortest record", [pool[lengths.index(min(lengths))]]))
    return kinds


def mixed(kinds: Sequence[Company], turn: int = 0) -> Company:
    """Return one company of all kinds in turn, beginning with another sample of each at each `turn`."""
    return Company("with extreme ones", [kind.samples[(turn + i) % len(kind.samples)] for i, kind in enumerate(kinds)])


def scaled(sample: Sample, scale: float) -> Sample:
    """Return a sample with its real numbers multiplied."""
    return mapped(sample, lambda value, path: value * scale if _is_float(value) else value)


def length(sample: Sample) -> int:
    """Return how many numbers or characters a sample holds."""
    sizes: list[int] = []
    mapped(sample, lambda value, path: sizes.append(_size(value)))
    return sum(sizes)


def mapped(value: Any, change: Callable[[Any, Path], Any], path: Path = ()) -> Any:
    """Return a sample with each of its values changed; a list of numbers is one value."""
    if isinstance(value, Mapping):
        entries = {key: mapped(entry, change, (*path, key)) for key, entry in value.items()}
        return entries if type(value) is dict else _rebuilt(value, entries)
    if isinstance(value, tuple) or (isinstance(value, list) and not _is_numbers(value)):
        parts = [mapped(entry, change, (*path, i)) for i, entry in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: mapped(getattr(value, f.name), change, (*path, f.name)) for f in dataclasses.fields(value) if f.init
        }
        return dataclasses.replace(value, **fields)
    if isinstance(value, list) and value and isinstance(value[0], float):
        return [change(entry, path) for entry in value]
    return change(value, path)


class CastsToIntegers(TorchFunctionMode):
    """Notes whether real numbers are made whole numbers, which may become indices that must not be out of range."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: TorchFunction, types: Collection[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Result:
        """Compare the types of argument and result."""
        result = func(*args, **(kwargs or {}))
        if func in _CASTS and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            whole = not result.is_floating_point() and result.dtype != torch.bool
            self.seen |= args[0].is_floating_point() and whole
        return result


_CASTS = {Tensor.long, Tensor.int, Tensor.short, Tensor.to, Tensor.type, Tensor.type_as}


def _labelled(samples: Sequence[Sample], pool: Sequence[Sample], classes: int | None) -> list[Company]:
    """Return companies that have each label in turn, the rarest first; of several labels of a sample each has its turn.

    They are records that have the label, so that they are valid; a declared one that no record has is set in a sample.
    """
    records: dict[Path, dict[int, list[Sample]]] = {}
    for sample in pool:
        mapped(sample, partial(_file, sample, records))
    by_label = {
        path: _rarest(known, classes, samples, path) for path, known in records.items() if len(known) <= MOST_LABELS
    }
    by_label = {path: labels for path, labels in by_label.items() if len(labels) > 1}
    turns = range(max(map(len, by_label.values()), default=0))
    chosen = [[labels[turn % len(labels)] for labels in by_label.values()] for turn in turns]
    return [
        Company(f"with label {', '.join(str(value) for value, _ in labels)}", [s for _, known in labels for s in known])
        for labels in chosen
    ]


def _file(sample: Sample, records: dict[Path, dict[int, list[Sample]]], value: Any, path: Path) -> None:
    """Note that a sample has this label at this place; a few samples are kept of each."""
    if _is_label(value):
        known = records.setdefault(path, {})
        same = known.setdefault(int(value), [])
        same.append(sample)


def _rarest(
    known: Mapping[int, list[Sample]], classes: int | None, samples: Sequence[Sample], path: Path
) -> list[tuple[int, Sequence[Sample]]]:
    """Return labels, the rarest first, each with a few samples that have it; before them declared ones that none has."""
    unseen = [v for v in range(classes or 0) if v not in known] if classes and max(known) < classes else []
    made: list[tuple[int, Sequence[Sample]]] = [
        (v, [_with_labels(s, {path: v}) for s in samples[:FEW]]) for v in unseen
    ]
    rarest = sorted(known.items(), key=lambda item: len(item[1]))
    return [*made, *((v, same[:FEW]) for v, same in rarest)][:LABELS]


def _with_labels(sample: Sample, labels: Mapping[Path, int]) -> Sample:
    def change(value: Any, path: Path) -> Any:
        if path not in labels or not _is_label(value):
            return value
        if isinstance(value, Tensor):
            return torch.full_like(value, labels[path])
        return np.full_like(value, labels[path]) if isinstance(value, np.generic | np.ndarray) else labels[path]

    return mapped(sample, change)


def _is_label(value: object) -> bool:
    if isinstance(value, Tensor):
        return (
            value.numel() == 1
            and not value.is_floating_point()
            and not value.is_complex()
            and value.dtype != torch.bool
        )
    if isinstance(value, np.generic | np.ndarray):
        return value.size == 1 and np.issubdtype(value.dtype, np.integer)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex()
    if isinstance(value, np.generic | np.ndarray):
        return bool(np.issubdtype(value.dtype, np.inexact))
    return isinstance(value, float)


def _has_floats(samples: Sequence[Sample]) -> bool:
    seen: list[bool] = []
    for sample in samples[:1]:
        mapped(sample, lambda value, path: seen.append(_is_float(value)))
    return any(seen)


def _is_numbers(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(entry, int | float) for entry in value) and len({*map(type, value)}) == 1


def _size(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, np.ndarray):
        return value.size
    return len(value) if isinstance(value, str | bytes | list) else 1


def _rebuilt(value: Any, entries: dict[Any, Any]) -> Any:
    """Return a mapping of a kind of its own, such as a `BatchEncoding`, with other entries."""
    try:
        return type(value)(entries)
    except Exception:  # it wants something else to be made of
        return entries
