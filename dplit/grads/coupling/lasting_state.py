"""What outlives a training step and could carry values of its records: tensors, attributes, containers, metrics, generators."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from dplit.grads.types import Generator

LARGE = 4096
"""Entries above which a container is compared by its length, and its entries are not looked into."""
IGNORED = {"_trainer", "trainer", "_fabric", "_current_fx_name", "_metric_attributes", "log", "_compiler_ctx"}
"""Attributes that Lightning sets on a module or data module."""
OPAQUE_PACKAGES = {"torch", "lightning", "lightning_fabric", "numpy", "tokenizers", "logging", "threading", "dplit"}
"""Packages whose objects, other than modules, are compared by identity."""
PACKAGES_OF_CLASSES = OPAQUE_PACKAGES | {"builtins", "abc", "typing", "transformers", "peft", "torchmetrics", "timm"}
"""Packages whose classes keep no values of a step."""
ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type, ModuleType)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
MISSING = object()


class Change(NamedTuple):
    """One entry that is not what it was."""

    name: str
    kept: Kept
    key: object

    def value(self) -> object:
        """Return what the entry is now, `MISSING` where it is gone."""
        return self.kept.entries().get(self.key, MISSING)


class Kept(ABC):
    """A holder of values, with what it held when it was last noted.

    Args:
        name: how messages call it.
        holder: the container or object.
    """

    def __init__(self, name: str, holder: Any) -> None:
        self.name = name
        self.holder = holder
        self.before: Any = self.copy()

    @abstractmethod
    def copy(self) -> Any:
        """Return its entries in a new container."""

    @abstractmethod
    def put_back(self) -> None:
        """Give it its former entries."""

    @property
    def large(self) -> bool:
        """Whether it has too many entries for each to be looked at."""
        return len(self.before) > LARGE

    def same(self) -> bool:
        """Whether it holds what it held; identical entries are equal. A large one is compared by its length."""
        if self.large:
            return len(self.holder) == len(self.before)
        try:
            return bool(self.holder == self.before)
        except Exception:  # a tensor or array took the place of another: `==` has no one answer
            return False

    def entries(self) -> Mapping[object, object]:
        """Return its entries now, by key."""
        return {None: self.copy()}

    def changes(self) -> Iterator[Change]:
        """Yield the entries that are not what they were."""
        if not self.same():
            yield Change(self.name, self, None)

    def children(self) -> Iterator[tuple[str, object]]:
        """Yield its entries as they were noted, with their names."""
        yield from ((f"{self.name}[{i}]", value) for i, value in enumerate(self.before))


class KeptDict(Kept):
    """A dictionary, or the attributes of an object."""

    def __init__(self, name: str, holder: Any, attributes: bool) -> None:
        super().__init__(name, holder)
        self.attributes = attributes

    def copy(self) -> dict[object, object]:
        """Return its entries in a new dictionary."""
        return dict(self.holder)

    def entries(self) -> Mapping[object, object]:
        """Return its entries."""
        current: Mapping[object, object] = self.holder
        return current

    def put_back(self) -> None:
        """Set the entries that changed, and remove new ones."""
        for change in list(self.changes()):
            if change.key in self.before:
                self._set(change.key, self.before[change.key])
            else:
                self._remove(change.key)

    def changes(self) -> Iterator[Change]:
        """Yield the entries that are new, gone, or not what they were, but for those that Lightning sets."""
        now = dict(self.entries())
        for key in {**self.before, **now}:
            if not (self.attributes and key in IGNORED) and not _equal(
                now.get(key, MISSING), self.before.get(key, MISSING)
            ):
                yield Change(_short(self._name_of(key)), self, key)

    def children(self) -> Iterator[tuple[str, object]]:
        """Yield its entries, but for hooks and what Lightning sets."""
        for key, value in self.before.items():
            if not (self.attributes and (key in IGNORED or _is_bookkeeping(key))):
                yield self._name_of(key), value

    def _name_of(self, key: object) -> str:
        if not self.attributes:
            return f"{self.name}[{key!r}]"
        return f"{self.name}.{key}" if self.name else str(key)

    def _set(self, key: Any, value: object) -> None:
        self.holder[key] = value

    def _remove(self, key: Any) -> None:
        del self.holder[key]


class KeptClass(KeptDict):
    """The attributes of a class."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        super().__init__(cls.__name__, vars(cls), attributes=True)

    def children(self) -> Iterator[tuple[str, object]]:
        """Yield what may be changed in place; functions and descriptors are not values of a step."""
        for name, value in super().children():
            if isinstance(value, Tensor | np.ndarray | list | dict | set | deque):
                yield name, value

    def _set(self, key: str, value: object) -> None:
        setattr(self.cls, key, value)

    def _remove(self, key: str) -> None:
        delattr(self.cls, key)


class KeptSlots(KeptDict):
    """The attributes of an object that has slots."""

    def copy(self) -> dict[object, object]:
        """Return the slots that are set."""
        names = [name for cls in type(self.holder).__mro__ for name in _slots(cls)]
        return {name: getattr(self.holder, name) for name in names if hasattr(self.holder, name)}

    def entries(self) -> Mapping[object, object]:
        """Return the slots that are set."""
        return self.copy()

    def same(self) -> bool:
        """Whether every slot holds what it held."""
        return not any(self.changes())

    def _set(self, key: str, value: object) -> None:
        object.__setattr__(self.holder, key, value)

    def _remove(self, key: str) -> None:
        object.__delattr__(self.holder, key)


class KeptSequence(Kept):
    """A list or deque."""

    def copy(self) -> Any:
        """Return its entries in a new one."""
        return self.holder.copy()

    def put_back(self) -> None:
        """Give it its former entries, in their order."""
        self.holder.clear()
        self.holder.extend(self.before)


class KeptSet(Kept):
    """A set."""

    def copy(self) -> set[object]:
        """Return its entries in a new one."""
        return set(self.holder)

    def put_back(self) -> None:
        """Give it its former entries."""
        self.holder.clear()
        self.holder.update(self.before)


class KeptCell(Kept):
    """A variable that a function keeps from the place where it was defined."""

    def copy(self) -> list[object]:
        """Return its value, if it has one."""
        try:
            return [self.holder.cell_contents]
        except ValueError:
            return []

    def same(self) -> bool:
        """Whether its value is the same object."""
        return [id(value) for value in self.copy()] == [id(value) for value in self.before]

    def put_back(self) -> None:
        """Give it its former value."""
        if self.before:
            self.holder.cell_contents = self.before[0]


class KeptArray(Kept):
    """A numpy array; of a large one some entries are compared."""

    def copy(self) -> Any:
        """Return the entries that are compared."""
        flat = self.holder.reshape(-1)
        return flat[:: max(1, flat.size // LARGE)].copy()

    def same(self) -> bool:
        """Whether the entries that are compared have their former bytes."""
        now = self.copy()
        return bool(now.shape == self.before.shape and now.tobytes() == self.before.tobytes())

    def put_back(self) -> None:
        """Give the entries that are compared their former values."""
        flat = self.holder.reshape(-1)
        flat[:: max(1, flat.size // LARGE)] = self.before

    def children(self) -> Iterator[tuple[str, object]]:
        """Yield nothing."""
        yield from ()


class LastingState:
    """All that can be reached from a module, and from what else is named, and that stays when a training step is over.

    Looked into are attributes of the modules and of their classes, dictionaries, lists, sets, deques, objects with attributes
    or slots, bound methods, and variables of functions that are kept. Not looked into are globals, data sets, loaders,
    optimizers, the trainer and its callbacks. The shallow copies that are kept cost no memory to speak of, and to compare
    them with what is there takes microseconds for a layer.

    Args:
        module: the model.
        others: what else may keep values, by name.

    Attributes:
        tensors: parameters, buffers, and tensors that attributes or containers hold, by name.
        metrics: torchmetrics metrics by name; what they hold is not looked into.
        generators: random generators by name.
        modules: the model's layers, and other modules that are kept somewhere, by name.
    """

    def __init__(self, module: nn.Module, **others: object) -> None:
        self.roots: dict[str, object] = {
            "": module,
            **{name: value for name, value in others.items() if value is not None},
        }
        self.note()

    def note(self) -> None:
        """Take what is there now for what is to stay; what is reachable is looked for again only where something changed."""
        if not hasattr(self, "_kept") or any(not kept.same() for kept in self._kept):
            self._find()
        self._versions = self._versions_now()
        self._counts = [_updates(metric) for metric in self.metrics.values()]

    def storages(self) -> dict[int, str]:
        """Return the name of the tensor that each storage belongs to, by the address of the storage."""
        return {_storage(t): name for name, t in self.tensors.items() if _storage(t)}

    def changes(self) -> list[Change]:
        """Return the entries that were replaced, added or removed since the last `note`."""
        return [change for kept in self._kept if not kept.same() for change in kept.changes()]

    def written(self) -> list[str]:
        """Return the names of the tensors that were written in place since the last `note`, or got another storage."""
        now = self._versions_now()
        if now == self._versions:
            return []
        return [name for name, a, b in zip(self.tensors, self._versions, now, strict=True) if a != b]

    def updated_metrics(self) -> dict[str, nn.Module]:
        """Return the metrics that were updated since the last `note`, by name."""
        pairs = zip(self.metrics.items(), self._counts, strict=True)
        return {name: metric for (name, metric), before in pairs if _updates(metric) != before}

    def put_back(self) -> None:
        """Give every container and object the entries that it had; what was written in place stays written."""
        for kept in self._kept:
            if not kept.same():
                kept.put_back()

    def _versions_now(self) -> list[tuple[int, int]]:
        return [(t._version, _storage(t)) for t in self.tensors.values()]

    # -- what can be reached -------------------------------------------------------------------------------------------

    def _find(self) -> None:
        self._kept: list[Kept] = []
        self.tensors: dict[str, Tensor] = {}
        self.metrics: dict[str, nn.Module] = {}
        self.generators: dict[str, Generator] = {}
        self.modules: dict[str, nn.Module] = {}
        self._seen: dict[int, object] = {}
        waiting = list(self.roots.items())
        while waiting:
            name, value = waiting.pop()
            if id(value) not in self._seen and not isinstance(value, ATOMS):
                self._seen[id(value)] = value  # kept, so that no other object gets its id
                waiting += self._look_at(name, value)
        del self._seen

    def _look_at(self, name: str, value: Any) -> list[tuple[str, object]]:
        """Note one object and return what it holds, by name."""
        if isinstance(value, Tensor):
            if _has_version(value):
                self.tensors[name] = value
            attributes = getattr(value, "__dict__", None)
            return [] if attributes is None else self._keep(KeptDict(name, attributes, attributes=True))
        if isinstance(value, nn.Module) and (isinstance(value, Metric) or _package(type(value)) == "torchmetrics"):
            self.metrics[name] = value
            return []
        if isinstance(value, GENERATORS):
            self.generators[name] = value
            return []
        if isinstance(value, nn.Module):
            self.modules[name] = value
            return [*self._keep(KeptDict(name, vars(value), attributes=True)), *self._classes(value)]
        if isinstance(value, KeptClass):
            return self._keep(value)
        if isinstance(value, dict):
            return self._keep(KeptDict(name, value, attributes=name.endswith(MEMBERS) or name in MEMBERS))
        if isinstance(value, list | deque):
            return self._keep(KeptSequence(name, value))
        if isinstance(value, set):
            return self._keep(KeptSet(name, value))
        if isinstance(value, tuple | frozenset):
            return [(f"{name}[{i}]", entry) for i, entry in enumerate(value)] if len(value) <= LARGE else []
        if isinstance(value, np.ndarray):
            return [] if value.dtype.hasobject else self._keep(KeptArray(name, value))
        if isinstance(value, CellType):
            return self._keep(KeptCell(name, value))
        if isinstance(value, FunctionType):
            return list(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
        if isinstance(value, MethodType):
            return [(name, value.__self__)]
        if isinstance(value, partial):
            return [(name, value.func), (name, value.args), (f"{name}.keywords", value.keywords)]
        return self._object(name, value)

    def _object(self, name: str, value: object) -> list[tuple[str, object]]:
        if _package(type(value)) in OPAQUE_PACKAGES and not isinstance(value, LightningDataModule):
            return []
        if _is_opaque(value):
            return []
        held = self._keep(KeptDict(name, vars(value), attributes=True)) if hasattr(value, "__dict__") else []
        if any(_slots(cls) for cls in type(value).__mro__):
            held += self._keep(KeptSlots(name, value, attributes=True))
        return held

    def _keep(self, kept: Kept) -> list[tuple[str, object]]:
        self._kept.append(kept)
        return [] if kept.large else [(_short(name), value) for name, value in kept.children()]

    def _classes(self, module: nn.Module) -> list[tuple[str, object]]:
        """Return the classes of a module that were written by whoever wrote the model, once each."""
        classes = [
            cls
            for cls in type(module).__mro__
            if _package(cls) not in PACKAGES_OF_CLASSES and id(cls) not in self._seen
        ]
        self._seen.update((id(cls), cls) for cls in classes)
        return [(cls.__name__, KeptClass(cls)) for cls in classes]


MEMBERS = ("_parameters", "_buffers", "_modules")
"""Where a module keeps its members, which messages call by the module's name and their own."""


def picture(value: object, depth: int = 8) -> object:
    """Return the contents of a value, deep, as plain values that can be compared by `same_picture` and do not change any more."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, ATOMS) or depth == 0:
        return value
    if isinstance(value, dict):
        return {key: picture(entry, depth - 1) for key, entry in value.items()}
    if isinstance(value, list | tuple | deque):
        return [picture(entry, depth - 1) for entry in value]
    if isinstance(value, set | frozenset):
        return set(value)
    if hasattr(value, "__dict__") and not _is_opaque(value):
        return {"": type(value), **{key: picture(entry, depth - 1) for key, entry in vars(value).items()}}
    return value


def same_picture(a: object, b: object) -> bool:
    """Whether two pictures are equal, NaN to NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and (
                torch.equal(a, b) or (torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))
            )
        )
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_picture(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_picture, a, b))
    return _equal(a, b)


def _equal(a: object, b: object) -> bool:
    if a is b:
        return True
    try:
        return type(a) is type(b) and not isinstance(a, Tensor | np.ndarray) and bool(a == b)
    except Exception:  # containers of tensors or arrays
        return False


def _updates(metric: nn.Module) -> list[int]:
    """Return how often a metric, and each metric inside it, was updated."""
    return [part._update_count for part in metric.modules() if isinstance(part, Metric)]


def _is_opaque(value: object) -> bool:
    return isinstance(value, Trainer | Optimizer | DataLoader | Dataset)


def _is_bookkeeping(key: object) -> bool:
    return isinstance(key, str) and (
        key.endswith(("_hooks", "_hooks_with_kwargs", "_always_called")) or key == "_non_persistent_buffers_set"
    )


def _short(name: str) -> str:
    """Return the name of a module's member without the dictionary it is kept in."""
    for members in MEMBERS:
        name = name.replace(f".{members}.", ".")
        name = name.removeprefix(f"{members}.")
    return name


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _has_version(value: Tensor) -> bool:
    return not value.is_inference()


def _storage(value: Tensor) -> int:
    """Return the address of a tensor's storage, 0 where it has none that can be told."""
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError, AttributeError):
        return 0
