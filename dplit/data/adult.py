"""UCI Adult: does a person of 1994 earn more than 50,000 dollars a year, with sex and race as groups.

Every constant of the encoding is declared here, from the public codebook (`adult.names`) and the limits of the census
form. Nothing is fitted on rows, so encoding costs no privacy: the features of a row are a function of that row.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from dplit.data.base import ALL_SPLITS, Ids
from dplit.data.tables.base import TableData
from dplit.data.tables.features import Categories, Number, logarithmic, words
from dplit.data.tables.features import encode as encode_features
from dplit.data.tables.groupings import groupings

Group = Literal["sex", "race", "sex_race"]

COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)
"""The columns of `adult.data` and `adult.test`, in order. `fnlwgt` is a survey weight and is not a feature."""

TRAIN_ROWS, TEST_ROWS = 32_561, 16_281
"""Rows of `adult.data` and `adult.test`, as the codebook says."""

MISSING = "missing"
"""The value that replaces `?` in the files; a value like any other."""

SEX = ("Female", "Male")
RACE = ("White", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other", "Black")
GROUPINGS = groupings(sex=SEX, race=RACE)
GROUPS = {name: grouping.names for name, grouping in GROUPINGS.items()}
"""The declared group names, in the order of the codebook; id `k` means the `k`-th name."""

LICENCE = (
    "Adult, Barry Becker and Ronny Kohavi (1996), UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C5XW20, CC BY 4.0; compressed, otherwise unchanged"
)


FEATURES: tuple[Categories | Number, ...] = (
    # The codebook calls numbers "continuous". The limits: the extraction kept ages over 16 and hours over 0; the survey has
    # two digits for hours, writes 90 for higher ages and 99,999 for higher gains; 5,000 is a round number. The edges are at
    # regular steps, and at the forty-hour week.
    Number("age", 17, 90, (*range(20, 75, 5),)),
    Number("education-num", 1, 16),
    Number("hours-per-week", 1, 99, (20, 30, 35, 40, 41, 45, 50, 55, 60)),
    Number("capital-gain", 0, 99_999, (1, *range(1_000, 11_000, 1_000), 15_000, 20_000), logarithmic),
    Number("capital-loss", 0, 5_000, (1, *range(200, 3_200, 200)), logarithmic),
    Categories(
        "workclass",
        (
            *words("Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked"),
            MISSING,
        ),
    ),
    Categories(
        "education",
        words(
            "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters 1st-4th "
            "10th Doctorate 5th-6th Preschool"
        ),
    ),
    Categories(
        "marital-status",
        words("Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent Married-AF-spouse"),
    ),
    Categories(
        "occupation",
        (
            *words("Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners"),
            *words("Machine-op-inspct Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv"),
            *words("Armed-Forces"),
            MISSING,
        ),
    ),
    Categories("relationship", words("Wife Own-child Husband Not-in-family Other-relative Unmarried")),
    Categories("race", RACE),
    Categories("sex", SEX),
    Categories("native-country", ("United-States", MISSING)),
)
"""The whole encoding. The forty other countries of the codebook share the feature `native-country=other`."""


def encode(rows: pd.DataFrame) -> NDArray[np.float32]:
    """Return the features of `n` rows with the columns `COLUMNS`, `(n, num_features)`; each row is encoded on its own."""
    return encode_features(FEATURES, rows)


def labels(rows: pd.DataFrame) -> Ids:
    """Return the classes, `(n,)`: 1 for an income over 50,000 dollars, 0 for one up to it."""
    return np.asarray(rows["income"].str.startswith(">50K"), dtype=np.int64)


def group_of(rows: pd.DataFrame, group: Group) -> Ids:
    """Return the group ids, `(n,)`, as indices into `GROUPS[group]`.

    Raises:
        ConfigurationError: a row has a sex or race that is not in the codebook.

    """
    return GROUPINGS[group].ids(rows)


@cache
def rows_of(name: Literal["adult.data", "adult.test"]) -> pd.DataFrame:
    """Read one bundled file, all its rows in order, with `missing` for `?`; the result is kept in memory."""
    with files("dplit.data").joinpath("files", f"{name}.bz2").open("rb") as compressed:
        rows = pd.read_csv(
            compressed, compression="bz2", names=COLUMNS, comment="|", skipinitialspace=True, na_filter=False
        )
    return rows.replace("?", MISSING)


class Adult(TableData):
    """The Adult data: train on 90 % of `adult.data`, validate on the other 10 %, test on `adult.test`.

    Batches are `{"x": (b, num_features) float32, "y": (b,) int64, "group": (b,) int64}`. Rows with missing values
    and repeated rows are kept. Sex and race are features as well as groups.

    Args:
        group: which column gives the group ids: `sex`, `race`, or both crossed.
        batch_size: training examples in a batch; under a DP strategy, the expected size of a Poisson draw.
        validation_fraction: share of `adult.data` that is kept for validation, in (0, 1).
        eval_batch_size: examples in a validation or test batch.
        num_workers: processes that load batches; the rows are in memory, so 0 is the fastest.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    num_classes = 2
    features = FEATURES
    groupings = GROUPINGS
    licence = LICENCE
    disjoint_splits = ALL_SPLITS

    def __init__(
        self,
        group: Group = "sex",
        batch_size: int = 512,
        validation_fraction: float = 0.1,
        eval_batch_size: int = 4096,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            group,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )

    @override
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return rows_of("adult.data"), rows_of("adult.test")

    @override
    def labels(self, rows: pd.DataFrame) -> Ids:
        return labels(rows)
