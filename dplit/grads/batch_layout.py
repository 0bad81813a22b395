"""Which parts of a collated batch belong to the examples row by row, which are the same for all, and which are neither."""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dplit.errors import ConfigurationError
from dplit.grads.messages import first_line
from dplit.grads.types import Batch, Sample

Path = str
"""Where a part of a batch is, as Python would write it: `batch['x'][0].mask`."""

Collate = Callable[[list[Sample]], Batch]
"""From samples to a batch, the transfer to the device included where that changes the batch."""

LOOKED_AT = 8
"""Most samples that a layout is found from; each of them is collated twice in one batch once."""


class Role(enum.Enum):
    """What the number of samples does to a part of a batch."""

    ROWS = "one row for each example"
    """A tensor or array whose first dimension is the number of examples, whichever they are."""
    SHARED = "the same size for any examples"
    """A tensor or array of a shape that does not follow the examples; any other value that stays equal."""
    OTHER = "grows otherwise than by rows"
    """Anything else: a list with an entry for each example, packed rows, examples in a later dimension, a count of them."""


@dataclass(frozen=True)
class BatchLayout:
    """The role of each part of a batch, by its path. A part that is not listed was not seen.

    A list whose length follows the samples is one part, and so is a mapping whose keys follow them.
    """

    roles: Mapping[Path, Role]

    def paths(self, role: Role) -> frozenset[Path]:
        """Return where the parts of one role are."""
        return frozenset(path for path, found in self.roles.items() if found is role)

    def parts(self, batch: Batch) -> Iterator[tuple[Path, object, Role]]:
        """Yield the parts of a batch with their roles; a part that was not seen before has the role `OTHER`."""
        for path, part in parts(batch, until=self.paths(Role.OTHER)):
            yield path, part, self.roles.get(path, Role.OTHER)


def batch_layout(collate: Collate, samples: Sequence[Sample]) -> BatchLayout:
    """Find the layout of a batch from batches in which one sample after the other stands twice.

    A copy of a sample adds a row to what has a row for each example, whichever sample it is; it does not lengthen padding
    or a tensor for all examples, whose first dimension may equal the number of examples by chance. Sizes alone are
    compared, not the numbers of a tensor: whether a collate function moves values between samples is another question.

    Args:
        collate: the collate function; it gets copies, because some write to the samples.
        samples: single records, one at least; the first eight are looked at.

    Raises:
        ConfigurationError: the collate function makes no batch of one sample more.

    Example:
        >>> import torch
        >>> def collate(rows): return {"x": torch.stack(rows), "prior": torch.tensor([0.4, 0.6])}
        >>> layout = batch_layout(collate, [torch.zeros(3), torch.ones(3)])
        >>> layout.paths(Role.ROWS), layout.paths(Role.SHARED)
        (frozenset({"batch['x']"}), frozenset({"batch['prior']"}))
    """
    few = list(samples[:LOOKED_AT])
    batches = [_collated(collate, few), *(_collated(collate, [*few, sample]) for sample in few)]
    counts = [len(few), *[len(few) + 1] * len(few)]
    return BatchLayout(dict(_roles("batch", batches, counts)))


def shared_leaves(collate: Collate, samples: Sequence[Sample]) -> frozenset[Path]:
    """Return where a batch holds what is the same for all examples, by the arguments of `batch_layout`.

    Example:
        >>> import torch
        >>> def collate(rows): return torch.stack(rows), {"prior": torch.ones(2)}
        >>> shared_leaves(collate, [torch.zeros(3), torch.ones(3)])
        frozenset({"batch[1]['prior']"})
    """
    return batch_layout(collate, samples).paths(Role.SHARED)


def layout_of_one(batch: Batch, examples: int) -> BatchLayout:
    """Return the layout of a single batch, by the number of rows alone: where it is n, they are taken for the examples.

    That is a guess, since a tensor for all examples may have n rows by chance; `batch_layout` knows.
    """
    by_rows = {
        path: Role.ROWS if isinstance(part, Tensor) and part.shape[:1] == (examples,) else Role.SHARED
        for path, part in parts(batch)
    }
    return BatchLayout(by_rows)


def parts(batch: Batch, path: Path = "batch", until: frozenset[Path] = frozenset()) -> Iterator[tuple[Path, object]]:
    """Yield what stands at the ends of the mappings, sequences and dataclasses of a batch, with its path.

    Args:
        batch: as collated.
        path: of the batch.
        until: paths that are taken for ends.
    """
    children = None if path in until else _children(batch)
    if children is None:
        yield path, batch
    else:
        for step, child in children:
            yield from parts(child, path + step, until)


def with_parts(batch: Batch, replaced: Mapping[Path, object], path: Path = "batch") -> Batch:
    """Return the same collection with other values at some paths; the batch itself stays as it was."""
    if path in replaced:
        return replaced[path]
    children = _children(batch)
    if children is None or not any(known.startswith(path) for known in replaced):
        return batch
    return _rebuilt(batch, [with_parts(child, replaced, path + step) for step, child in children])


def in_own_collections(batch: Batch) -> Batch:
    """Return the same values in collections of their own, at every depth, so that what is put into those stays there."""
    children = _children(batch)
    known = isinstance(batch, Mapping | list | tuple) or dataclasses.is_dataclass(batch)
    if children is None or not known:
        return batch
    return _rebuilt(batch, [in_own_collections(child) for _, child in children])


def _collated(collate: Collate, samples: Sequence[Sample]) -> Batch:
    try:
        return collate([copy.deepcopy(sample) for sample in samples])
    except Exception as error:
        raise ConfigurationError(
            f"the collate function makes no batch of {len(samples)} samples ({type(error).__name__}: {first_line(error)}); "
            "a Poisson draw has any number of them"
        ) from error


def _roles(path: Path, values: Sequence[object], counts: Sequence[int]) -> Iterator[tuple[Path, Role]]:
    """Yield the roles of what stands at one path of several batches, or below it."""
    children = [_children(value) for value in values]
    first = children[0]
    if first is None:
        yield path, _role(values, counts)
    elif any(other is None or [step for step, _ in other] != [step for step, _ in first] for other in children):
        yield path, Role.OTHER
    else:
        for i, (step, _) in enumerate(first):
            yield from _roles(path + step, [other[i][1] for other in children if other is not None], counts)


def _role(values: Sequence[object], counts: Sequence[int]) -> Role:
    """Return the role of values that are no collections."""
    if not all(isinstance(value, Tensor | np.ndarray) for value in values):
        return Role.SHARED if all(_equal(value, values[0]) for value in values) else Role.OTHER
    shapes = [tuple(value.shape) for value in values]  # type: ignore[attr-defined]
    if all(shape[:1] == (count,) for shape, count in zip(shapes, counts, strict=True)):
        return Role.ROWS
    return Role.SHARED if len(set(shapes)) == 1 else Role.OTHER


def _equal(a: object, b: object) -> bool:
    try:
        return a is b or (type(a) is type(b) and bool(a == b))
    except Exception:
        return False


def _children(value: object) -> list[tuple[str, object]] | None:
    """Return what a collection holds, each with the step that leads to it; None for what is no collection."""
    if isinstance(value, Tensor | np.ndarray | str | bytes | range):
        return None
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", child) for key, child in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", child) for name, child in zip(value._fields, value, strict=True)]
    if isinstance(value, Sequence):
        return [(f"[{i}]", child) for i, child in enumerate(value)]
    return None


def _rebuilt(collection: Batch, children: Sequence[object]) -> Batch:
    """Return a collection of the same kind that holds other children, in the order of `_children`."""
    if isinstance(collection, Mapping):
        return _rebuilt_mapping(collection, children)
    if dataclasses.is_dataclass(collection):
        return _rebuilt_dataclass(collection, children)
    kind = type(collection)
    return kind(*children) if hasattr(collection, "_fields") else kind(children)


def _rebuilt_dataclass(instance: Batch, children: Sequence[object]) -> Batch:
    result = copy.copy(instance)
    for field, child in zip(dataclasses.fields(instance), children, strict=True):
        object.__setattr__(result, field.name, child)
    return result


def _rebuilt_mapping(mapping: Mapping[object, object], children: Sequence[object]) -> Batch:
    items = dict(zip(mapping, children, strict=True))
    try:
        result: Batch = copy.copy(mapping)
        for key, child in items.items():
            result[key] = child
    except TypeError:
        return type(mapping)(items)  # type: ignore[call-arg]
    return result
