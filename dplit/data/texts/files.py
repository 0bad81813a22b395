"""Your own texts, from a CSV, JSON lines or Parquet file or a Hugging Face data set; classes and groups are declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
from typing_extensions import override

from dplit.data.base import ALL_SPLITS, TEST_FRACTION, Ids, check_share
from dplit.data.columns import Value, as_text, declare, declared_ids, read_columns
from dplit.data.texts.base import TextData
from dplit.data.texts.records import Records
from dplit.errors import ConfigurationError

TABLE_SUFFIXES = (".csv", ".parquet", ".pq")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


@runtime_checkable
class HasToPandas(Protocol):
    """A data set of the library `datasets`."""

    def to_pandas(self) -> pd.DataFrame:
        """Return its rows."""


Source: TypeAlias = str | Path | list[str] | pd.DataFrame | HasToPandas
"""Files, a name on the Hugging Face hub, a folder of `datasets`, or an object in memory."""


class Texts(TextData):
    """Your own texts. Everything about them that training uses is declared in the arguments.

    If `unit` is given, the splits are of units, such as persons: all records of a unit are in one split, and
    `validation_fraction` and `test_fraction` are shares of the units.

    Args:
        train: the rows to train and validate on: a CSV, JSON lines, JSON or Parquet file; or a name on the Hugging Face hub,
            or a folder that `save_to_disk` of `datasets` wrote, followed by `#split` for another split than `train`; or a
            data set of `datasets`, or a pandas table.
        groups: the declared groups; id `k` means the `k`-th.
        classes: the declared classes; id `k` means the `k`-th. None for language modelling, where the class is the group.
        tokenizer: as in `TextData`.
        text: the column with the text.
        label: the column with the class.
        group: the column with the group.
        unit: the column that says whose record it is; None if every record is a unit of its own.
        test: the rows to test on, like `train`; None takes `test_fraction` of `train`, chosen by row (or unit) number alone.
        test_fraction: in (0, 1).
        **options: those of `TextData`, such as template, max_length and swaps; batch_size,
            validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, a source cannot be read, is empty, lacks a
            column, or holds a class or group that was not declared, a record without its unit, or a unit of both sources.

    """

    licence = "the texts belong to their owner"

    def __init__(
        self,
        train: Source,
        groups: list[Value],
        classes: list[Value] | None = None,
        tokenizer: str = "minilm-l6",
        text: str = "text",
        label: str = "label",
        group: str = "group",
        unit: str | None = None,
        test: Source | None = None,
        test_fraction: float = TEST_FRACTION,
        **options: Any,
    ) -> None:
        super().__init__(tokenizer, **options)
        check_share(test_fraction=test_fraction)
        self.groups = declare(groups, "groups")
        self.classes = self.groups if classes is None else declare(classes, "classes", least=2)
        self.num_classes = len(self.classes)
        self.label = group if classes is None else label
        self.text, self.group, self.unit = text, group, unit
        self.train_source, self.test_source, self.test_fraction = train, test, test_fraction
        self.disjoint_splits = ALL_SPLITS if test is None else ALL_SPLITS[:2]

    @override
    def records(self) -> tuple[Records, Records | None]:
        train = self._table(self.train_source, "train")
        if self.test_source is None:
            return self._records(train, "train", self._units(train)).split(self.test_fraction)
        test = self._table(self.test_source, "test")
        units = self._units(pd.concat([train, test]))
        if units is None:
            return self._records(train, "train", None), self._records(test, "test", None)
        train_units, test_units = units[: len(train)], units[len(train) :]
        self._refuse_shared_units(train_units, test_units)
        return self._records(train, "train", train_units), self._records(test, "test", test_units)

    def _table(self, source: Source, argument: str) -> pd.DataFrame:
        columns = [self.text, self.label, self.group, *([] if self.unit is None else [self.unit])]
        return read_source(source, list(dict.fromkeys(columns)), argument)

    def _units(self, rows: pd.DataFrame) -> Ids | None:
        if self.unit is None:
            return None
        names = as_text(rows[self.unit])
        if (names == "").any():
            row = int(np.flatnonzero(names == "")[0])
            raise ConfigurationError(f"column {self.unit!r} is empty in row {row + 1}; say there whose record it is")
        return pd.factorize(names)[0].astype(np.int64)

    def _records(self, rows: pd.DataFrame, argument: str, unit: Ids | None) -> Records:
        y = declared_ids(rows, self.label, self.classes, argument)
        group = declared_ids(rows, self.group, self.groups, argument)
        return Records(list(as_text(rows[self.text])), y, group, unit)

    def _refuse_shared_units(self, train: Ids, test: Ids) -> None:
        shared = np.intersect1d(train, test)
        if len(shared):
            raise ConfigurationError(
                f"{len(shared)} values of {self.unit!r} are in train and in test: the test would be on people who were "
                "trained on; move all records of a person to one of them"
            )


def read_source(source: Source, columns: list[str], argument: str) -> pd.DataFrame:
    """Return the given columns of a source, all rows in order.

    Args:
        source: as `train` of `Texts`.
        columns: their names.
        argument: the argument that gave the source, for messages.

    Raises:
        ConfigurationError: the source cannot be read, lacks a column, or has no row.

    """
    if isinstance(source, list) or (isinstance(source, str | Path) and Path(source).suffix in TABLE_SUFFIXES):
        return read_columns(source, columns, argument)
    rows = _read_rows(source, argument)
    missing = [column for column in columns if column not in rows]
    if missing and len(rows.columns):
        present = ", ".join(map(str, rows.columns))
        raise ConfigurationError(f"{argument} has no column {', '.join(map(repr, missing))}; it has {present}")
    if rows.empty:
        raise ConfigurationError(f"{argument} holds no rows; give at least one")
    return rows[columns].reset_index(drop=True)


def _read_rows(source: object, argument: str) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, str | Path):
        is_json = Path(source).suffix in JSON_SUFFIXES
        return _read_json(Path(source), argument) if is_json else _read_dataset(str(source), argument)
    if isinstance(source, HasToPandas):
        return pd.DataFrame(source.to_pandas())
    kind = type(source).__name__
    raise ConfigurationError(
        f"{argument} is of type {kind}; give a file, the name of a data set, or a data set that has one split"
    )


def _read_json(path: Path, argument: str) -> pd.DataFrame:
    try:
        content = path.read_text("utf-8")
        is_one_list = path.suffix == ".json" and content.lstrip()[:1] == "["
        rows = json.loads(content) if is_one_list else [json.loads(s) for s in content.split("\n") if s.strip()]
        return pd.DataFrame(rows, dtype=object)
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{argument}={path} cannot be read: {reason}; give one JSON object per line"
        ) from error


def _read_dataset(source: str, argument: str) -> pd.DataFrame:
    """Read a split of a data set of Hugging Face: `source` is a name or folder, with `#split` behind it or not."""
    name, _, split = source.partition("#")
    try:
        import datasets

        is_folder = Path(name).is_dir()
        loaded = datasets.load_from_disk(name) if is_folder else datasets.load_dataset(name, split=split or "train")
        return pd.DataFrame((loaded[split or "train"] if hasattr(loaded, "keys") else loaded).to_pandas())
    except ImportError as error:
        raise ConfigurationError(
            f"{argument}={source} is not a CSV, JSON lines or Parquet file, and the name of a data set needs datasets; "
            f"install it, or give a file that ends in {', '.join((*TABLE_SUFFIXES, *JSON_SUFFIXES))}"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigurationError(
            f"{argument}={source} cannot be loaded ({reason}); give a file, a folder or a name"
        ) from error
