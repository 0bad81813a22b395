"""Tables whose files are downloaded once and kept."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit.data.base import ALL_SPLITS, Ids
from dplit.data.tables.base import TableData, train_and_test
from dplit.hub.download import PinnedFiles


class DownloadedTable(TableData):
    """A table with one file to train on and one to test on, or one file for both.

    Attributes:
        files: the pinned files, the training file first.

    Args:
        group: which of `groupings` gives the group ids.
        root: a folder that holds the files; by default they are downloaded once and kept in `DPLIT_CACHE`.
        **loading: batch_size, validation_fraction, eval_batch_size and num_workers of `GroupedData`.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    disjoint_splits = ALL_SPLITS
    files: PinnedFiles

    def __init__(self, group: str, root: str | Path | None = None, **loading: Any) -> None:
        super().__init__(group, **loading)
        self.root = root

    @abstractmethod
    def parse(self, content: bytes) -> pd.DataFrame:
        """Parse one file into rows with every column of `features` and of `groupings`, and the class under `label`."""

    @override
    def labels(self, rows: pd.DataFrame) -> Ids:
        return rows["label"].to_numpy(np.int64)

    @override
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        train, *test = [self.parse(self.files.read(member.name, self.root)) for member in self.files.members]
        return (train, test[0]) if test else train_and_test(train)


class PeopleTable(DownloadedTable):
    """A downloaded table of people, with a yes-or-no class, and with sex and race as groups.

    Args:
        group: which column gives the group ids: `sex`, `race`, or both crossed.
        **options: root of `DownloadedTable`; batch_size, validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    num_classes = 2

    def __init__(self, group: Literal["sex", "race", "sex_race"] = "race", **options: Any) -> None:
        super().__init__(group, **options)
