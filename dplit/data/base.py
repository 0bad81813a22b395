"""What every data module shares: three splits whose examples have a class and a declared group, and their loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dplit.errors import ConfigurationError

Batch = dict[str, Tensor]

SPLIT_SEED = 1996
"""Seed of the permutation of row numbers that chooses the validation rows; public, and blind to what the rows say."""


class Examples(Dataset[Any], ABC):
    """Examples that know their groups and how to become a batch `{"x": (b, …), "y": (b,), "group": (b,)}`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Batch:
        """Samples to a batch; accepts any list of samples, the empty one too."""

    @abstractmethod
    def group_ids(self) -> Tensor:
        """Return the group id of every example, `(n,)` int64."""


class Rows(Examples):
    """Encoded rows whose sample is its own index, so that a batch is three tensor look-ups.

    `x (n, …)` float32, `y (n,)` int64, `group (n,)` int64. `collate` accepts any list of samples, the empty one too.
    """

    def __init__(self, x: Tensor, y: Tensor, group: Tensor) -> None:
        self.x, self.y, self.group = x, y, group

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> int:
        return range(len(self))[index]

    def __getitems__(self, indices: Sequence[int]) -> list[int]:
        """What a DataLoader calls instead of one call per sample."""
        return list(indices)

    def collate(self, samples: Sequence[int]) -> Batch:
        """Samples to `{"x": (b, …), "y": (b,), "group": (b,)}`."""
        chosen = torch.as_tensor(samples, dtype=torch.int64)
        return {"x": self.x[chosen], "y": self.y[chosen], "group": self.group[chosen]}

    def group_ids(self) -> Tensor:
        """Return the group id of every row, `(n,)` int64."""
        return self.group


class Splits(NamedTuple):
    """The three sets of examples of a data module."""

    train: Examples
    val: Examples
    test: Examples


class GroupedData(L.LightningDataModule, ABC):
    """Data whose examples each have a class and a group; a subclass says what is public and reads the examples.

    A subclass declares, on the class or in its `__init__`: `num_classes`, `groups` (the names; id `k` means the
    `k`-th), `licence`, and the size of an example, `num_features` or `image_shape`. All of it is public: none of it may
    be worked out from the examples.

    Args:
        batch_size: training examples in a batch; under dplit, the expected size of a Poisson draw.
        validation_fraction: share of the training file that is kept for validation, in (0, 1).
        eval_batch_size: examples in a validation or test batch.
        num_workers: processes that load batches.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    group_key = "group"
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
            raise ConfigurationError(f"num_workers={num_workers} cannot be a number of processes; give 0 or more")
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
            ConfigurationError: they cannot be read, or are too few to split.

        """
        if self.train is not None:
            return
        splits = self.read()
        for name, examples in splits._asdict().items():
            if len(examples) == 0:
                raise ConfigurationError(f"{type(self).__name__} has no example left for its {name} split; give more")
        self.train, self.val, self.test = splits

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of `batch_size`, the last one smaller; a DP strategy draws Poisson batches instead."""
        return self._loader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation examples, in order."""
        return self._loader(self.val, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test examples, in order."""
        return self._loader(self.test, self.eval_batch_size)

    def _loader(self, examples: Examples | None, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        if examples is None:
            name = type(self).__name__
            raise ConfigurationError(f"{name} has no rows yet; call setup() first, or let the Trainer do it")
        options: dict[str, Any] = {"num_workers": self.num_workers, "collate_fn": examples.collate}
        return DataLoader(examples, batch_size=batch_size, shuffle=shuffle, **options)


def split(rows: int, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers held out, `round(rows · fraction)` of them but at least one, and the row numbers kept.

    The choice depends on `rows` and `fraction` alone. Both lists are in ascending order.
    """
    # RandomState's stream is frozen for good by numpy's compatibility policy; default_rng's is not.
    order = np.random.RandomState(SPLIT_SEED).permutation(rows)
    cut = min(max(round(rows * fraction), 1), rows - 1)
    return np.sort(order[:cut]), np.sort(order[cut:])


def check_sizes(**sizes: int) -> None:
    """Refuse a batch size under 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"{name}={size} would leave every batch empty; give at least 1")


def check_share(**shares: float) -> None:
    """Refuse a share that is not between 0 and 1."""
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigurationError(
                f"{name}={share} would leave nothing to train or to validate on; choose one in (0, 1)"
            )


def check_choice(name: str, given: object, choices: Sequence[str], what: str) -> None:
    """Refuse a value that is not among the declared ones."""
    if given not in choices:
        raise ConfigurationError(f"{name}={given!r} is not a {what}; choose one of {', '.join(choices)}")
