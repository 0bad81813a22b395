"""What every table shares: features declared by a public codebook, groups by declared names, rows encoded one by one.

Nothing is fitted: no mean, vocabulary or limit is worked out from rows, so encoding spends no privacy, and a row's
features are a function of that row and of constants.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from typing_extensions import override

from dplit.data.base import GroupedData, Rows, Splits, check_choice, split
from dplit.errors import ConfigurationError
from dplit.hub.download import PinnedFiles

TEST_FRACTION = 0.2
"""Share of the rows that is kept to test on, where the data come without a test file."""


@dataclass(frozen=True)
class Categories:
    """One column of 0 and 1 per declared value, and a last one, `other`, for every value nobody declared."""

    column: str
    values: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Feature names, in the order of `encode`."""
        return [f"{self.column}={value}" for value in (*self.values, "other")]

    def encode(self, raw: pd.Series) -> NDArray[np.float32]:
        """`(n,)` words to `(n, len(values) + 1)`."""
        known = pd.Index(self.values).get_indexer(pd.Index(raw))
        return np.eye(len(self.values) + 1, dtype=np.float32)[np.where(known < 0, len(self.values), known)]


def centred(number: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """`[low, high]` to [-1, 1] by a straight line."""
    return 2 * (number - low) / (high - low) - 1


def logarithmic(number: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """`[low, high]` to [0, 1] by the logarithm of 1 + number - low: for money, where most people have none."""
    return np.asarray(np.log1p(number - low) / np.log1p(high - low), dtype=np.float64)


@dataclass(frozen=True)
class Number:
    """A number clipped to `[low, high]` and scaled, then one column of 0 and 1 per bin.

    A bin reaches from one edge up to, not including, the next; numbers under the first edge have no bin.
    """

    column: str
    low: float
    high: float
    edges: tuple[float, ...] = ()
    scale: Callable[[NDArray[np.float64], float, float], NDArray[np.float64]] = centred

    @property
    def names(self) -> list[str]:
        """Feature names, in the order of `encode`."""
        bins = zip(self.edges, (*self.edges[1:], np.inf), strict=True) if self.edges else ()
        return [self.column, *(f"{self.column} in [{low:g}, {high:g})" for low, high in bins)]

    def encode(self, raw: pd.Series) -> NDArray[np.float32]:
        """`(n,)` numbers to `(n, 1 + len(edges))`."""
        number = np.clip(raw.to_numpy(np.float64), self.low, self.high)
        bins = np.eye(len(self.edges) + 1)[np.searchsorted(self.edges, number, side="right")]
        return np.column_stack([self.scale(number, self.low, self.high), bins[:, 1:]]).astype(np.float32)


Feature = Categories | Number


def encode(features: Sequence[Feature], rows: pd.DataFrame) -> NDArray[np.float32]:
    """Turn `n` rows into `(n, sum of the features' widths)` numbers, each row by itself."""
    # Filled in place: a wide table is never in memory twice.
    x = np.empty((len(rows), len(names_of(features))), dtype=np.float32)
    start = 0
    for feature in features:
        end = start + len(feature.names)
        x[:, start:end] = feature.encode(rows[feature.column])
        start = end
    return x


def names_of(features: Sequence[Feature]) -> tuple[str, ...]:
    """Return the name of every column that `encode` makes."""
    return tuple(name for feature in features for name in feature.names)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: a short way to declare values that hold no spaces."""
    return tuple(text.split())


def listed(text: str) -> tuple[str, ...]:
    """Return what stands between semicolons: a short way to declare values that hold spaces."""
    return tuple(" ".join(value.split()) for value in text.split(";"))


def crossed(*values: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all combinations of declared values, the last one varying fastest, joined by spaces."""
    return tuple(" ".join(combination) for combination in product(*values))


@dataclass(frozen=True)
class Grouping:
    """Groups by the values of one or more columns.

    Args:
        columns: whose values, joined by spaces, name a row's group.
        names: the declared names; id `k` means the `k`-th.

    """

    columns: tuple[str, ...]
    names: tuple[str, ...]

    def ids(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """Return the group id of every row, `(n,)`.

        Raises:
            ConfigurationError: a row has a combination that nobody declared.

        """
        joined = rows[self.columns[0]]
        for column in self.columns[1:]:
            joined = joined + " " + rows[column]
        ids = pd.Index(self.names).get_indexer(pd.Index(joined))
        if (ids < 0).any():
            group, declared = "_".join(self.columns), ", ".join(self.names)
            raise ConfigurationError(f"{group} has a value outside the declared {declared}; mend the rows")
        return ids.astype(np.int64)


def groupings(**columns: Sequence[str]) -> dict[str, Grouping]:
    """Return the grouping by every single column, from its declared values, and by every pair, as `first_second`."""
    single = {column: Grouping((column,), tuple(names)) for column, names in columns.items()}
    pairs = {f"{a}_{b}": Grouping((a, b), crossed(columns[a], columns[b])) for a, b in combinations(columns, 2)}
    return {**single, **pairs}


class TableData(GroupedData):
    """A table in memory; a subclass declares its codebook and reads its files.

    Batches are `{"x": (b, num_features) float32, "y": (b,) int64, "group": (b,) int64}`.

    Attributes:
        features: the encoding, every constant declared; `feature_names` and `num_features` follow from it.
        groupings: what `group` can be.

    Args:
        group: which of `groupings` gives the group ids.
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers of `GroupedData`.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    features: Sequence[Feature]
    feature_names: tuple[str, ...]
    num_features: int
    groupings: Mapping[str, Grouping]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "features" in vars(cls):
            cls.feature_names = names_of(cls.features)
            cls.num_features = len(cls.feature_names)

    def __init__(self, group: str, **loading: Any) -> None:
        check_choice("group", group, list(self.groupings), f"group of {type(self).__name__}")
        super().__init__(**loading)
        self.group = group
        self.groups = self.groupings[group].names

    @abstractmethod
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Read the rows to train and validate on, and the rows to test on."""

    @abstractmethod
    def labels(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """Return the class of every row, `(n,)`."""

    def encoded(self, rows: pd.DataFrame) -> Rows:
        """Turn rows into examples, each row by itself."""
        x, y, group = encode(self.features, rows), self.labels(rows), self.groupings[self.group].ids(rows)
        return Rows(torch.from_numpy(x), torch.tensor(y), torch.from_numpy(group))

    @override
    def read(self) -> Splits:
        train, test = self.tables()
        held_out, kept = split(len(train), self.validation_fraction)
        return Splits(self.encoded(train.iloc[kept]), self.encoded(train.iloc[held_out]), self.encoded(test))


class FetchedTable(TableData):
    """A table whose files are fetched once and kept: one to train on and one to test on, or one file for both.

    Attributes:
        artefact: the files, the one to train on first.

    Args:
        group: which of `groupings` gives the group ids.
        root: a folder that holds the files; by default they are fetched once, and kept in `DPLIT_CACHE`.
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers of `GroupedData`.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be had.

    """

    artefact: PinnedFiles

    def __init__(self, group: str, root: str | Path | None = None, **loading: Any) -> None:
        super().__init__(group, **loading)
        self.root = root

    @abstractmethod
    def rows(self, content: bytes) -> pd.DataFrame:
        """Read one file, with every column of `features` and of `groupings`, and the class under `label`."""

    @override
    def labels(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        return rows["label"].to_numpy(np.int64)

    @override
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        train, *test = [self.rows(self.artefact.read(member.name, self.root)) for member in self.artefact.members]
        return (train, test[0]) if test else divided(train)


def divided(rows: pd.DataFrame, fraction: float = TEST_FRACTION) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows kept and the rows held out to test on, chosen by row number alone."""
    held_out, kept = split(len(rows), fraction)
    return rows.iloc[kept], rows.iloc[held_out]
