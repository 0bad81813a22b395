"""The groups of a table's rows, by the declared values of one or more columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd

from dplit.data.base import Ids
from dplit.errors import ConfigurationError


@dataclass(frozen=True)
class Grouping:
    """Groups by the values of one or more columns.

    Args:
        columns: a row's values in these columns, joined by spaces, are the name of its group.
        names: the declared names; id `k` means the `k`-th.

    """

    columns: tuple[str, ...]
    names: tuple[str, ...]

    def ids(self, rows: pd.DataFrame) -> Ids:
        """Return the group id of every row, `(n,)`.

        Raises:
            ConfigurationError: a row has a combination of values that is not declared.

        """
        joined = rows[self.columns[0]]
        for column in self.columns[1:]:
            joined = joined + " " + rows[column]
        ids = pd.Index(self.names).get_indexer(pd.Index(joined))
        if (ids < 0).any():
            group, declared = "_".join(self.columns), ", ".join(self.names)
            raise ConfigurationError(f"{group} has a value outside the declared {declared}; correct the rows")
        return ids.astype(np.int64)


def crossed(*values: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all combinations of declared values, joined by spaces; the last value varies fastest.

    >>> crossed(["F", "M"], ["light", "dark"])
    ('F light', 'F dark', 'M light', 'M dark')
    """
    return tuple(" ".join(combination) for combination in product(*values))


def groupings(**columns: Sequence[str]) -> dict[str, Grouping]:
    """Return the grouping by every single column, and by every pair of columns under the name `first_second`.

    Args:
        **columns: the declared values of each column.

    >>> sorted(groupings(sex=["F", "M"], race=["A", "B"]))
    ['race', 'sex', 'sex_race']
    """
    single = {column: Grouping((column,), tuple(names)) for column, names in columns.items()}
    pairs = {f"{a}_{b}": Grouping((a, b), crossed(columns[a], columns[b])) for a, b in combinations(columns, 2)}
    return {**single, **pairs}
