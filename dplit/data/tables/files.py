"""Your own CSV or Parquet tables: columns, classes, groups and limits are declared in the arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit import validation
from dplit.data.base import ALL_SPLITS, TEST_FRACTION, Ids, check_share
from dplit.data.columns import Files, Value, as_numbers, as_text, declare, declared_ids, read_columns
from dplit.data.tables.base import TableData, train_and_test
from dplit.data.tables.features import Categories, Feature, Number, centred, logarithmic, names_of
from dplit.data.tables.groupings import Grouping, crossed
from dplit.errors import ConfigurationError

SCALES = {"linear": centred, "log": logarithmic}


@dataclass(frozen=True)
class Range:
    """What is declared about a column of numbers.

    Args:
        low: lower numbers are set to this.
        high: higher numbers are set to this.
        edges: ascending edges of bins; each bin is a feature of 0 and 1, and the last one has no end.
        scale: `linear`, to [-1, 1], or `log`, to [0, 1] by the logarithm of 1 + number - low.
        missing: the number for cells without one; None refuses such cells.

    """

    low: float
    high: float
    edges: tuple[float, ...] = ()
    scale: Literal["linear", "log"] = "linear"
    missing: float | None = None

    def feature(self, column: str) -> Number:
        """Return the encoding of a column.

        Raises:
            ConfigurationError: low is not below high, the edges are not ascending, or the scale is unknown.

        """
        if not -np.inf < self.low < self.high < np.inf:
            raise ConfigurationError(f"numbers.{column}: low={self.low} must be below high={self.high}, both finite")
        if list(self.edges) != sorted(set(self.edges)):
            raise ConfigurationError(f"numbers.{column}: edges={list(self.edges)} must be ascending")
        validation.choice(f"numbers.{column}: scale", self.scale, SCALES)
        return Number(column, self.low, self.high, tuple(self.edges), SCALES[self.scale])


class Table(TableData):
    """Your own table. Everything about it that training uses is declared in the arguments; nothing is fitted on its rows.

    Args:
        train: CSV or Parquet file, or several, with the rows to train and validate on.
        label: the column with the class.
        classes: the declared classes; id `k` means the `k`-th.
        group: the columns that define the groups, each with its declared values; several columns are crossed.
        numbers: the columns of numbers that are features, each with its declared limits.
        categories: the columns of text that are features, each with its declared values; all other values share one feature.
        test: file or files to test on; None takes `test_fraction` of the rows of `train`, chosen by row number alone.
        test_fraction: share of the rows that is kept for testing if there is no `test`, in (0, 1).
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers, as in `Adult`.

    Raises:
        ConfigurationError: the declarations contradict each other; in `setup`, a file cannot be read, is empty, lacks a
            column, or holds a class, group or number that the declarations do not cover.

    """

    licence = "the table belongs to its owner"

    def __init__(
        self,
        train: Files,
        label: str,
        classes: list[Value],
        group: dict[str, list[Value]],
        numbers: dict[str, Range] | None = None,
        categories: dict[str, list[Value]] | None = None,
        test: Files | None = None,
        test_fraction: float = TEST_FRACTION,
        **loading: Any,
    ) -> None:
        self.numbers = numbers or {}
        self.features = _features(self.numbers, categories or {}, label)
        self.feature_names = names_of(self.features)
        self.num_features = len(self.feature_names)
        self.group_values = {column: declare(values, f"group.{column}") for column, values in group.items()}
        self.groupings = _grouping(self.group_values, self.numbers)
        super().__init__("_".join(self.group_values), **loading)
        check_share(test_fraction=test_fraction)
        self.label, self.classes = label, declare(classes, "classes", least=2)
        self.num_classes = len(self.classes)
        self.train_files, self.test_files, self.test_fraction = train, test, test_fraction
        self.disjoint_splits = ALL_SPLITS if test is None else ALL_SPLITS[:2]

    @override
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        train = self._checked(self.train_files, "train")
        if self.test_files is None:
            return train_and_test(train, self.test_fraction)
        return train, self._checked(self.test_files, "test")

    @override
    def labels(self, rows: pd.DataFrame) -> Ids:
        return declared_ids(rows, self.label, self.classes, "train")

    def _checked(self, files: Files, argument: str) -> pd.DataFrame:
        """Read a file, and refuse classes, groups and numbers that are not covered by the declarations."""
        raw = read_columns(files, [*(f.column for f in self.features), *self.group_values, self.label], argument)
        rows = pd.DataFrame({column: self._column(raw[column], argument) for column in raw})
        for column, declared in {**self.group_values, self.label: self.classes}.items():
            declared_ids(rows, column, declared, argument)
        return rows

    def _column(self, raw: pd.Series, argument: str) -> pd.Series:
        limits = self.numbers.get(str(raw.name))
        return as_text(raw) if limits is None else as_numbers(raw, limits.missing, argument)


def _features(
    numbers: Mapping[str, Range], categories: Mapping[str, Sequence[Value]], label: str
) -> tuple[Feature, ...]:
    in_both = sorted(set(numbers) & set(categories))
    if in_both:
        raise ConfigurationError(f"column {in_both[0]!r} is declared under numbers and categories; keep one")
    if label in numbers or label in categories:
        raise ConfigurationError(f"label={label!r} is also a feature, which would give the answer away; drop it there")
    if not numbers and not categories:
        raise ConfigurationError("there is no feature to learn from; declare columns under numbers or categories")
    of_text = (Categories(column, declare(v, f"categories.{column}")) for column, v in categories.items())
    return (*(limits.feature(column) for column, limits in numbers.items()), *of_text)


def _grouping(values: Mapping[str, Sequence[str]], numbers: Mapping[str, Range]) -> dict[str, Grouping]:
    if not values:
        raise ConfigurationError("group={} names no column; declare one with its values")
    of_numbers = sorted(set(values) & set(numbers))
    if of_numbers:
        raise ConfigurationError(f"column {of_numbers[0]!r} gives groups and is declared under numbers; keep one")
    return {"_".join(values): Grouping(tuple(values), crossed(*values.values()))}
