"""Any CSV, JSON lines or Parquet file of texts, or a data set of Hugging Face; classes and groups are declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from dplit.data.base import check_share
from dplit.data.columns import Value, codes, declare, read_columns, words
from dplit.data.tables.base import TEST_FRACTION
from dplit.data.texts.base import Records, TextData
from dplit.errors import ConfigurationError

Ids = NDArray[np.int64]
TABLES = (".csv", ".parquet", ".pq")
JSON = (".jsonl", ".ndjson", ".json")


class Texts(TextData):
    """Texts of one's own; everything about them that training uses is declared here.

    Where `unit` is given, the splits are of persons: all records of one are in one split, and `validation_fraction` and
    `test_fraction` are shares of the persons.

    Args:
        train: CSV, JSON lines, JSON or Parquet file with the rows to train and validate on; or a name on the Hugging Face
            hub or a folder that its `save_to_disk` wrote, with `#split` behind it for another split than `train`; or a
            data set of `datasets`, or a pandas table.
        groups: the declared groups; id `k` means the `k`-th.
        classes: the declared classes; id `k` means the `k`-th. None for language modelling: the class is then the group.
        tokenizer: as in `TextData`.
        text: the column with the text.
        label: the column with the class.
        group: the column with the group.
        unit: the column that says whose record it is; None where every record stands for itself.
        test: like `train`, to test on; None takes `test_fraction` of `train`, chosen by row number (or unit) alone.
        test_fraction: in (0, 1).
        **options: those of `TextData`, such as template, max_length and swaps; batch_size,
            validation_fraction, eval_batch_size and num_workers.

    Raises:
        ConfigurationError: an argument is out of its range; in `setup`, a source cannot be read, is empty, lacks a
            column, holds a class or group that was not declared, a record without its unit, or a unit of both files.

    """

    licence = "the texts are their owner's"

    def __init__(
        self,
        train: Any,
        groups: list[Value],
        classes: list[Value] | None = None,
        tokenizer: str = "minilm-l6",
        text: str = "text",
        label: str = "label",
        group: str = "group",
        unit: str | None = None,
        test: Any = None,
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

    @override
    def records(self) -> tuple[Records, Records | None]:
        train = self._table(self.train_source, "train")
        if self.test_source is None:
            return self._records(train, "train", self._units(train)).split(self.test_fraction)
        test = self._table(self.test_source, "test")
        units = self._units(pd.concat([train, test]))
        if units is None:
            return self._records(train, "train", None), self._records(test, "test", None)
        of_train, of_test = units[: len(train)], units[len(train) :]
        self._check_apart(of_train, of_test)
        return self._records(train, "train", of_train), self._records(test, "test", of_test)

    def _table(self, source: Any, name: str) -> pd.DataFrame:
        wanted = [self.text, self.label, self.group, *([] if self.unit is None else [self.unit])]
        return read(source, list(dict.fromkeys(wanted)), name)

    def _units(self, rows: pd.DataFrame) -> Ids | None:
        if self.unit is None:
            return None
        held = words(rows[self.unit])
        if (held == "").any():
            row = int(np.flatnonzero(held == "")[0])
            raise ConfigurationError(f"column {self.unit!r} says nothing in row {row + 1}; say whose record it is")
        return pd.factorize(held)[0].astype(np.int64)

    def _records(self, rows: pd.DataFrame, name: str, unit: Ids | None) -> Records:
        y = codes(rows, self.label, self.classes, name)
        return Records(list(words(rows[self.text])), y, codes(rows, self.group, self.groups, name), unit)

    def _check_apart(self, train: Ids, test: Ids) -> None:
        both = np.intersect1d(train, test)
        if len(both):
            raise ConfigurationError(
                f"{len(both)} values of {self.unit!r} are in train and in test: the test would be on people who were "
                "trained on; move all records of one to one of them"
            )


def read(source: Any, wanted: list[str], name: str) -> pd.DataFrame:
    """Return the columns `wanted` of a source, all rows in order.

    Args:
        source: as `train` of `Texts`.
        wanted: the columns.
        name: of the argument that gave it, for messages.

    Raises:
        ConfigurationError: it cannot be read, lacks a column, or has no row.

    """
    if isinstance(source, list) or (isinstance(source, str | Path) and Path(source).suffix in TABLES):
        return read_columns(source, wanted, name)
    rows = _rows(source, name)
    lacking = [column for column in wanted if column not in rows]
    if lacking and len(rows.columns):
        has = ", ".join(map(str, rows.columns))
        raise ConfigurationError(f"{name} has no column {', '.join(map(repr, lacking))}; it has {has}")
    if rows.empty:
        raise ConfigurationError(f"{name} holds no rows; give at least one")
    return rows[wanted].reset_index(drop=True)


def _rows(source: Any, name: str) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, str | Path):
        return _json(Path(source), name) if Path(source).suffix in JSON else _named(str(source), name)
    if hasattr(source, "to_pandas"):
        return pd.DataFrame(source.to_pandas())
    kind = type(source).__name__
    raise ConfigurationError(
        f"{name} is a {kind}; give a file, the name of a data set, or a data set that has one split"
    )


def _json(path: Path, name: str) -> pd.DataFrame:
    try:
        content = path.read_text("utf-8")
        whole = path.suffix == ".json" and content.lstrip()[:1] == "["
        rows = json.loads(content) if whole else [json.loads(line) for line in content.split("\n") if line.strip()]
        return pd.DataFrame(rows, dtype=object)
    except (OSError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"{name}={path} cannot be read: {said}; give one JSON object a line") from error


def _named(source: str, name: str) -> pd.DataFrame:
    where, _, part = source.partition("#")
    try:
        import datasets

        folder = Path(where).is_dir()
        found = datasets.load_from_disk(where) if folder else datasets.load_dataset(where, split=part or "train")
        return pd.DataFrame((found[part or "train"] if hasattr(found, "keys") else found).to_pandas())
    except ImportError as error:
        raise ConfigurationError(
            f"{name}={source} is no CSV, JSON lines or Parquet file, and a data set's name needs datasets; "
            f"install it, or give a file that ends in {', '.join((*TABLES, *JSON))}"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigurationError(
            f"{name}={source} cannot be loaded ({said}); give a file, a folder or a name"
        ) from error
