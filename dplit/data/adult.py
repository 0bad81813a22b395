"""UCI Adult: does a person of 1994 earn more than 50,000 dollars a year, with sex and race as groups.

Every constant of the encoding is declared here, from the public codebook (`adult.names`) and the limits of the census
form behind it. Nothing is fitted on rows, so encoding spends no privacy: a row's features are a function of that row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dplit.errors import ConfigurationError

Batch = dict[str, Tensor]
Group = Literal["sex", "race", "sex_race"]

COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)
"""The columns of `adult.data` and `adult.test`, in order. `fnlwgt` is a survey weight and is not a feature."""

TRAIN_ROWS, TEST_ROWS = 32_561, 16_281
"""Rows of `adult.data` and `adult.test`, as the codebook states them."""

SPLIT_SEED = 1996
"""Seed of the permutation of row numbers that chooses the validation rows; public, and blind to what the rows say."""

MISSING = "missing"
"""What `?` in the files is called here; a value like any other."""

SEX = ("Female", "Male")
RACE = ("White", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other", "Black")
GROUPS: dict[str, tuple[str, ...]] = {
    "sex": SEX,
    "race": RACE,
    "sex_race": tuple(f"{sex} {race}" for sex, race in product(SEX, RACE)),
}
"""The declared group names; id `k` means the `k`-th name, in the codebook's order."""

LICENCE = (
    "Adult, Barry Becker and Ronny Kohavi (1996), UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C5XW20, CC BY 4.0; compressed, otherwise unchanged"
)


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


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FEATURES: tuple[Categories | Number, ...] = (
    # The codebook calls numbers "continuous". The limits: the extraction kept ages over 16 and hours over 0; the
    # survey has two digits for hours, writes 90 for higher ages and 99,999 for higher gains; 5,000 is a round figure.
    # Edges stand at regular steps, and at the forty-hour week.
    Number("age", 17, 90, (*range(20, 75, 5),)),
    Number("education-num", 1, 16),
    Number("hours-per-week", 1, 99, (20, 30, 35, 40, 41, 45, 50, 55, 60)),
    Number("capital-gain", 0, 99_999, (1, *range(1_000, 11_000, 1_000), 15_000, 20_000), logarithmic),
    Number("capital-loss", 0, 5_000, (1, *range(200, 3_200, 200)), logarithmic),
    Categories(
        "workclass",
        (
            *_words("Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked"),
            MISSING,
        ),
    ),
    Categories(
        "education",
        _words(
            "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters 1st-4th "
            "10th Doctorate 5th-6th Preschool"
        ),
    ),
    Categories(
        "marital-status",
        _words("Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent Married-AF-spouse"),
    ),
    Categories(
        "occupation",
        (
            *_words("Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners"),
            *_words("Machine-op-inspct Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv"),
            *_words("Armed-Forces"),
            MISSING,
        ),
    ),
    Categories("relationship", _words("Wife Own-child Husband Not-in-family Other-relative Unmarried")),
    Categories("race", RACE),
    Categories("sex", SEX),
    Categories("native-country", ("United-States", MISSING)),
)
"""The whole encoding. The forty other countries of the codebook share the bucket `native-country=other`."""


def encode(rows: pd.DataFrame) -> NDArray[np.float32]:
    """Turn `n` rows with the columns `COLUMNS` into `(n, num_features)` numbers, each row by itself."""
    return np.concatenate([feature.encode(rows[feature.column]) for feature in FEATURES], axis=1)


def labels(rows: pd.DataFrame) -> NDArray[np.int64]:
    """`(n,)` ids: 1 for an income over 50,000 dollars, 0 for one up to it."""
    return np.asarray(rows["income"].str.startswith(">50K"), dtype=np.int64)


def group_of(rows: pd.DataFrame, group: Group) -> NDArray[np.int64]:
    """`(n,)` group ids into `GROUPS[group]`.

    Raises:
        ConfigurationError: a row has a sex or race that the codebook does not declare.

    """
    names = rows["sex"] + " " + rows["race"] if group == "sex_race" else rows[group]
    ids = pd.Index(GROUPS[group]).get_indexer(pd.Index(names))
    if (ids < 0).any():
        raise ConfigurationError(f"{group} has a value outside the declared {', '.join(GROUPS[group])}; mend the rows")
    return ids.astype(np.int64)


@cache
def rows_of(name: Literal["adult.data", "adult.test"]) -> pd.DataFrame:
    """Read one bundled file, all its rows in order, `?` renamed to `missing`; kept in memory for the process."""
    with files("dplit.data").joinpath("files", f"{name}.bz2").open("rb") as compressed:
        rows = pd.read_csv(
            compressed, compression="bz2", names=COLUMNS, comment="|", skipinitialspace=True, na_filter=False
        )
    return rows.replace("?", MISSING)


class Rows(Dataset[int]):
    """Encoded rows whose sample is its own index, so that a batch is three tensor look-ups.

    `x (n, d)` float32, `y (n,)` int64, `group (n,)` int64. `collate` accepts any list of samples, the empty one too.
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

    def collate(self, indices: Sequence[int]) -> Batch:
        """Samples to `{"x": (b, d), "y": (b,), "group": (b,)}`."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return {"x": self.x[chosen], "y": self.y[chosen], "group": self.group[chosen]}


class Adult(L.LightningDataModule):
    """The Adult data: train on 90 % of `adult.data`, validate on the other 10 %, test on `adult.test`.

    Batches are `{"x": (b, num_features) float32, "y": (b,) int64, "group": (b,) int64}`. Rows with missing values
    and repeated rows stay. Sex and race are features as well as groups.

    Args:
        group: which column gives the group ids: `sex`, `race`, or both crossed.
        batch_size: training examples in a batch; under dplit, the expected size of a Poisson draw.
        validation_fraction: share of `adult.data` that is kept for validation, in (0, 1).
        eval_batch_size: examples in a validation or test batch.
        num_workers: processes that load batches; the rows are in memory, so 0 is fastest.

    Raises:
        ConfigurationError: an argument is out of its range.

    """

    num_classes = 2
    group_key = "group"
    feature_names = tuple(name for feature in FEATURES for name in feature.names)
    num_features = len(feature_names)
    licence = LICENCE

    def __init__(
        self,
        group: Group = "sex",
        batch_size: int = 512,
        validation_fraction: float = 0.1,
        eval_batch_size: int = 4096,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        _check(group, batch_size, validation_fraction, eval_batch_size, num_workers)
        self.group = group
        self.groups = GROUPS[group]
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.validation_fraction, self.num_workers = validation_fraction, num_workers
        self.train: Rows | None = None
        self.val: Rows | None = None
        self.test: Rows | None = None

    def setup(self, stage: str | None = None) -> None:
        """Encode the rows and split them, once."""
        if self.train is not None:
            return
        held_out, kept = split(TRAIN_ROWS, self.validation_fraction)
        self.train, self.val = self._encoded("adult.data", kept), self._encoded("adult.data", held_out)
        self.test = self._encoded("adult.test", np.arange(TEST_ROWS))

    def train_dataloader(self) -> DataLoader[int]:
        """Shuffled batches of `batch_size`, the last one smaller; a DP strategy draws Poisson batches instead."""
        return self._loader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[int]:
        """The validation rows, in order."""
        return self._loader(self.val, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[int]:
        """The rows of `adult.test`, in order."""
        return self._loader(self.test, self.eval_batch_size)

    def _encoded(self, name: Literal["adult.data", "adult.test"], chosen: NDArray[np.int64]) -> Rows:
        rows = rows_of(name).iloc[chosen]
        x, y, group = encode(rows), labels(rows), group_of(rows, self.group)
        return Rows(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(group))

    def _loader(self, rows: Rows | None, batch_size: int, shuffle: bool = False) -> DataLoader[int]:
        if rows is None:
            raise ConfigurationError("Adult has no rows yet; call setup() first, or let the Trainer do it")
        options: dict[str, Any] = {"num_workers": self.num_workers, "collate_fn": rows.collate}
        return DataLoader(rows, batch_size=batch_size, shuffle=shuffle, **options)


def split(rows: int, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers held out, `round(rows · fraction)` of them but at least one, and the row numbers kept.

    The choice depends on `rows` and `fraction` alone. Both lists are in ascending order.
    """
    # RandomState's stream is frozen for good by numpy's compatibility policy; default_rng's is not.
    order = np.random.RandomState(SPLIT_SEED).permutation(rows)
    cut = min(max(round(rows * fraction), 1), rows - 1)
    return np.sort(order[:cut]), np.sort(order[cut:])


def _check(group: str, batch_size: int, fraction: float, eval_batch_size: int, num_workers: int) -> None:
    if group not in get_args(Group):
        raise ConfigurationError(f"group={group!r} is not a group of Adult; choose one of {', '.join(get_args(Group))}")
    for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
        if size < 1:
            raise ConfigurationError(f"{name}={size} would leave every batch empty; give at least 1")
    if not 0 < fraction < 1:
        raise ConfigurationError(
            f"validation_fraction={fraction} would leave nothing to train or to validate on; choose one in (0, 1)"
        )
    if num_workers < 0:
        raise ConfigurationError(f"num_workers={num_workers} cannot be a number of processes; give 0 or more")
