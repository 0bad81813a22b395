"""The encoding of a table's columns: every constant is declared, and each row is encoded on its own.

Nothing is fitted: no mean, vocabulary or limit is computed from rows, so encoding costs no privacy. The features of a row
are a function of that row and of constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Categories:
    """A column of text: one feature of 0 and 1 per declared value, and a last one, `other`, for all other values."""

    column: str
    values: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Feature names, in the order of `encode`."""
        return [f"{self.column}={value}" for value in (*self.values, "other")]

    def encode(self, raw: pd.Series) -> NDArray[np.float32]:
        """Return the features of `(n,)` texts, `(n, len(values) + 1)`."""
        ids = pd.Index(self.values).get_indexer(pd.Index(raw))
        return np.eye(len(self.values) + 1, dtype=np.float32)[np.where(ids < 0, len(self.values), ids)]


def centred(number: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Map `[low, high]` linearly to [-1, 1].

    >>> centred(np.array([17.0, 90.0]), 17, 90).tolist()
    [-1.0, 1.0]
    """
    return 2 * (number - low) / (high - low) - 1


def logarithmic(number: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Map `[low, high]` to [0, 1] by the logarithm of 1 + number - low; for amounts of money that are mostly 0.

    >>> logarithmic(np.array([0.0, 99.0]), 0, 99).tolist()
    [0.0, 1.0]
    """
    return np.asarray(np.log1p(number - low) / np.log1p(high - low), dtype=np.float64)


@dataclass(frozen=True)
class Number:
    """A column of numbers: the number, clipped to `[low, high]` and scaled, then one feature of 0 and 1 per bin.

    A bin goes from one edge up to, but not including, the next edge; the last bin has no end. Numbers under the first edge
    are in no bin.
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
        """Return the features of `(n,)` numbers, `(n, 1 + len(edges))`."""
        number = np.clip(raw.to_numpy(np.float64), self.low, self.high)
        bins = np.eye(len(self.edges) + 1)[np.searchsorted(self.edges, number, side="right")]
        return np.column_stack([self.scale(number, self.low, self.high), bins[:, 1:]]).astype(np.float32)


Feature: TypeAlias = Categories | Number


def encode(features: Sequence[Feature], rows: pd.DataFrame) -> NDArray[np.float32]:
    """Return the features of `n` rows, `(n, sum of the features' widths)`; each row is encoded on its own."""
    # The array is filled in place, so that a wide table is never in memory twice.
    x = np.empty((len(rows), len(names_of(features))), dtype=np.float32)
    start = 0
    for feature in features:
        end = start + len(feature.names)
        x[:, start:end] = feature.encode(rows[feature.column])
        start = end
    return x


def names_of(features: Sequence[Feature]) -> tuple[str, ...]:
    """Return the name of every column of `encode`.

    >>> names_of([Number("age", 0, 90, (18, 65)), Categories("sex", ("F", "M"))])
    ('age', 'age in [18, 65)', 'age in [65, inf)', 'sex=F', 'sex=M', 'sex=other')
    """
    return tuple(name for feature in features for name in feature.names)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: a short way to declare values without spaces.

    >>> words("Private Never-worked")
    ('Private', 'Never-worked')
    """
    return tuple(text.split())


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a text between semicolons: a short way to declare values with spaces.

    >>> listed("Never married; Divorced")
    ('Never married', 'Divorced')
    """
    return tuple(" ".join(value.split()) for value in text.split(";"))
