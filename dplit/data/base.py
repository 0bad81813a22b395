"""What all data modules share: three splits whose examples have a class and a declared group, and their data loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import TypeVar, override

from dplit.errors import ConfigurationError

Batch = dict[str, Tensor]
Ids: TypeAlias = NDArray[np.int64]
"""One integer for each record, `(n,)`: its class, group or unit, or a list of record numbers."""

SPLIT_SEED = 1996
"""Seed of the permutation of row numbers that chooses the validation rows. It is public, and the choice depends on no row."""

ALL_SPLITS: tuple[str, ...] = ("train", "validation", "test")
"""What a data module declares whose splits are parts of one permutation, or whose publisher gives test records apart."""

TEST_FRACTION = 0.2
"""Share of the rows that is kept for testing if the data come without a test file."""

Sample = TypeVar("Sample", default=Any)


class Examples(Dataset[Sample], ABC, Generic[Sample]):
    """Examples that know their groups and how to become a batch `{"x": (b, …), "y": (b,), "group": (b,)}`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of a list of samples, which may be empty."""

    @abstractmethod
    def group_ids(self) -> Tensor:
        """Return the group id of every example, `(n,)` int64."""


class IndexExamples(Examples[int]):
    """Examples in memory whose sample is its own index, so that a batch is a few tensor look-ups."""

    def __getitem__(self, index: int) -> int:
        return range(len(self))[index]

    def __getitems__(self, indices: Sequence[int]) -> list[int]:
        """Return several samples; a DataLoader calls this in place of one call per sample."""
        return list(indices)


class Rows(IndexExamples):
    """Encoded rows.

    Args:
        x: `(n, …)` float32.
        y: `(n,)` int64 classes.
        group: `(n,)` int64 group ids.

    """

    def __init__(self, x: Tensor, y: Tensor, group: Tensor) -> None:
        self.x, self.y, self.group = x, y, group

    def __len__(self) -> int:
        return len(self.y)

    @override
    def collate(self, samples: Sequence[int]) -> Batch:
        """Return `{"x": (b, …), "y": (b,), "group": (b,)}`."""
        indices = torch.as_tensor(samples, dtype=torch.int64)
        return {"x": self.x[indices], "y": self.y[indices], "group": self.group[indices]}

    @override
    def group_ids(self) -> Tensor:
        return self.group


class Splits(NamedTuple):
    """The three sets of examples of a data module."""

    train: Examples
    val: Examples
    test: Examples


class GroupedData(L.LightningDataModule, ABC):
    """Data whose examples each have a class and a group; a subclass declares what is public and reads the examples.

    A subclass declares, on the class or in its `__init__`: `num_classes`; `groups`, the names, where id `k` means the
    `k`-th; `licence`; and the size of an example, `num_features` or `image_shape`. All of these are public, so none may be
    computed from the examples.

    Args:
        batch_size: training examples in a batch; under a DP strategy, the expected size of a Poisson draw.
        validation_fraction: share of the training file that is kept for validation, in (0, 1).
        eval_batch_size: examples in a validation or test batch.
        num_workers: processes that load batches.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    group_key = "group"
    disjoint_splits: tuple[str, ...] = ()
    """Names of splits that are made so that no record is in two of them; what others release is added up."""
    num_classes: int
    groups: tuple[str, ...]
    licence: str

    def __init__(
        self,
        batch_size: int = 512,
        validation_fraction: float = 0.1,
        eval_batch_size: int = 4096,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_share(validation_fraction=validation_fraction)
        if num_workers < 0:
            raise ConfigurationError(f"num_workers={num_workers} is not a number of processes; give 0 or more")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.validation_fraction, self.num_workers = validation_fraction, num_workers
        self.train: Examples | None = None
        self.val: Examples | None = None
        self.test: Examples | None = None

    @abstractmethod
    def read(self) -> Splits:
        """Read the examples and split them; called once."""

    def setup(self, stage: str | None = None) -> None:
        """Read the examples and split them, once.

        Raises:
            ConfigurationError: the examples cannot be read, or are too few to split.

        """
        if self.train is not None:
            return
        splits = self.read()
        for name, examples in splits._asdict().items():
            if len(examples) == 0:
                raise ConfigurationError(f"{type(self).__name__} has no example left for its {name} split; give more")
        self.train, self.val, self.test = splits

    def train_dataloader(self) -> DataLoader[object]:
        """Return shuffled batches of `batch_size`, the last one smaller; a DP strategy draws Poisson batches instead."""
        return self._loader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[object]:
        """Return the validation examples, in order."""
        return self._loader(self.val, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[object]:
        """Return the test examples, in order."""
        return self._loader(self.test, self.eval_batch_size)

    def _loader(self, examples: Examples | None, batch_size: int, shuffle: bool = False) -> DataLoader[object]:
        if examples is None:
            name = type(self).__name__
            raise ConfigurationError(f"{name} has no rows yet; call setup() first, or let the Trainer do it")
        return DataLoader(
            examples, batch_size, shuffle=shuffle, num_workers=self.num_workers, collate_fn=examples.collate
        )


def split(rows: int, fraction: float) -> tuple[Ids, Ids]:
    """Choose rows to hold out: `round(rows · fraction)` of them, but at least one, and at least one is kept.

    The choice depends on `rows` and `fraction` alone, never on the contents of a row.

    Returns:
        The row numbers held out and the row numbers kept, each in ascending order.

    >>> held_out, kept = split(5, 0.4)
    >>> sorted([*held_out.tolist(), *kept.tolist()])
    [0, 1, 2, 3, 4]
    >>> len(held_out)
    2
    """
    # numpy guarantees that the stream of RandomState never changes; that of default_rng may.
    order = np.random.RandomState(SPLIT_SEED).permutation(rows)
    cut = min(max(round(rows * fraction), 1), rows - 1)
    return np.sort(order[:cut]), np.sort(order[cut:])


def check_sizes(**sizes: int) -> None:
    """Refuse a batch size under 1.

    Raises:
        ConfigurationError: naming the argument.

    """
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"{name}={size} would leave every batch empty; give at least 1")


def check_share(**shares: float) -> None:
    """Refuse a share that is not between 0 and 1.

    Raises:
        ConfigurationError: naming the argument.

    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigurationError(
                f"{name}={share} would leave nothing to train or to validate on; choose one in (0, 1)"
            )


def check_choice(name: str, value: object, choices: Iterable[str], kind: str) -> None:
    """Refuse a value that is not among the declared choices; `kind` says in the message what they are.

    Raises:
        ConfigurationError: naming the argument and the choices.

    """
    declared = tuple(choices)
    if value not in declared:
        raise ConfigurationError(f"{name}={value!r} is not a {kind}; choose one of {', '.join(declared)}")
