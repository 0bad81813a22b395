"""What all tables share: declared features and groups, and rows that are encoded one by one and kept in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from typing_extensions import override

from dplit.data.base import ALL_SPLITS, TEST_FRACTION, GroupedData, Ids, Rows, Splits, check_choice, split
from dplit.data.tables.features import Feature, encode, names_of
from dplit.data.tables.groupings import Grouping


class TableData(GroupedData):
    """A table in memory; a subclass declares its features and groups and reads its files.

    Batches are `{"x": (b, num_features) float32, "y": (b,) int64, "group": (b,) int64}`.

    Attributes:
        features: the encoding, with all its constants; `feature_names` and `num_features` follow from it.
        groupings: the choices for `group`.

    Args:
        group: which of `groupings` gives the group ids.
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers of `GroupedData`.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    disjoint_splits = ALL_SPLITS[:2]
    features: Sequence[Feature]
    feature_names: tuple[str, ...]
    num_features: int
    groupings: Mapping[str, Grouping]

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "features" in vars(cls):
            cls.feature_names = names_of(cls.features)
            cls.num_features = len(cls.feature_names)

    def __init__(self, group: str, **loading: Any) -> None:
        check_choice("group", group, self.groupings, f"group of {type(self).__name__}")
        super().__init__(**loading)
        self.group = group
        self.groups = self.groupings[group].names

    @abstractmethod
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the rows to train and validate on, and the rows to test on."""

    @abstractmethod
    def labels(self, rows: pd.DataFrame) -> Ids:
        """Return the class of every row, `(n,)`."""

    def encoded(self, rows: pd.DataFrame) -> Rows:
        """Return rows as examples; each row is encoded on its own.

        Raises:
            ConfigurationError: a row is in no declared group.

        """
        x, y, group = encode(self.features, rows), self.labels(rows), self.groupings[self.group].ids(rows)
        return Rows(torch.from_numpy(x), torch.tensor(y), torch.from_numpy(group))

    @override
    def read(self) -> Splits:
        train, test = self.tables()
        held_out, kept = split(len(train), self.validation_fraction)
        return Splits(self.encoded(train.iloc[kept]), self.encoded(train.iloc[held_out]), self.encoded(test))


def train_and_test(rows: pd.DataFrame, fraction: float = TEST_FRACTION) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to train on and the rows held out for testing, chosen by row number alone."""
    held_out, kept = split(len(rows), fraction)
    return rows.iloc[kept], rows.iloc[held_out]
