"""Columns of a user's own CSV or Parquet files, checked against the values that the user declared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dplit.data.base import Ids
from dplit.errors import ConfigurationError

Value = str | int | bool
"""A declared class, group or category; it is compared with the contents of the file as text."""

Files = str | Path | list[str]
"""One file, or several that are read one after another."""

PARQUET = (".parquet", ".pq")


def read_columns(files: Files, columns: Sequence[str], argument: str) -> pd.DataFrame:
    """Read some columns of one or more files, all their rows in order.

    Args:
        files: CSV, or Parquet if the name ends in `.parquet` or `.pq`.
        columns: names of the columns; others are not read.
        argument: the argument that gave the files, for messages.

    Raises:
        ConfigurationError: a file cannot be read or lacks a column, or no file has a row.

    """
    paths = [Path(path) for path in (files if isinstance(files, list) else [files])]
    tables = [_read_file(path, list(dict.fromkeys(columns)), argument) for path in paths]
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if rows.empty:
        listed = ", ".join(map(str, paths)) or "[]"
        raise ConfigurationError(f"{argument}={listed} holds no rows; give a file with at least one")
    return rows


def as_text(column: pd.Series) -> pd.Series:
    """Return a column as text; a missing cell becomes the empty text.

    Integers that a file stores as floating point, because some are missing, are written as integers.

    >>> as_text(pd.Series([1.0, None])).tolist()
    ['1', '']
    """
    if pd.api.types.is_float_dtype(column) and bool((column.dropna() % 1 == 0).all()):
        column = column.astype("Int64")
    return column.astype("str").where(column.notna(), "")


def as_numbers(column: pd.Series, missing: float | None, argument: str) -> pd.Series:
    """Return a column as float64.

    Args:
        column: as read.
        missing: the declared number for cells without one; None refuses such cells.
        argument: the argument that gave the file, for messages.

    Raises:
        ConfigurationError: a cell is not a number, and no number was declared for it.

    """
    values = pd.to_numeric(column, errors="coerce").astype(np.float64)
    if missing is not None:
        return values.fillna(missing)
    if values.isna().any():
        row = int(np.flatnonzero(values.isna())[0])
        raise ConfigurationError(
            f"{argument}: column {column.name!r} holds {column.iloc[row]!r} in row {row + 1}, which is not a number; "
            f"declare missing=... for it, or declare the column under categories"
        )
    return values


def declared_ids(rows: pd.DataFrame, column: str, declared: Sequence[str], argument: str) -> Ids:
    """Return the index of every cell in the declared list, `(n,)`.

    Raises:
        ConfigurationError: a cell has a value that is not declared.

    """
    cells = as_text(rows[column])
    ids = pd.Index(declared).get_indexer(pd.Index(cells))
    if (ids < 0).any():
        row = int(np.flatnonzero(ids < 0)[0])
        raise ConfigurationError(
            f"{argument}: column {column!r} holds {cells.iloc[row]!r} in row {row + 1}, outside the declared "
            f"{', '.join(declared)}; declare it or correct the file"
        )
    return ids.astype(np.int64)


def declare(values: Sequence[Value], argument: str, least: int = 1) -> tuple[str, ...]:
    """Return declared values as text.

    Raises:
        ConfigurationError: there are fewer than `least`, or one of them occurs twice.

    >>> declare([True, 1, "x"], "classes")
    ('True', '1', 'x')
    """
    names = tuple(str(value) for value in values)
    if len(names) < least or len(set(names)) != len(names):
        raise ConfigurationError(
            f"{argument}={list(values)} must be at least {least} distinct values; declare them all"
        )
    return names


def _read_file(path: Path, columns: list[str], argument: str) -> pd.DataFrame:
    try:
        present = _column_names(path)
        missing = [column for column in columns if column not in present]
        if missing:
            raise ConfigurationError(
                f"{argument}={path} has no column {', '.join(map(repr, missing))}; it has {', '.join(present)}"
            )
        if path.suffix in PARQUET:
            return pd.read_parquet(path, columns=columns)
        return pd.read_csv(path, usecols=columns, dtype=str, na_filter=False)[columns]
    except ImportError as error:
        raise ConfigurationError(f"{argument}={path} is a Parquet file; install dplit[parquet] to read it") from error
    except ConfigurationError:
        raise
    except (OSError, ValueError) as error:  # the errors of pandas and pyarrow are subclasses of these
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{argument}={path} cannot be read: {reason}; give a CSV or Parquet file") from error


def _column_names(path: Path) -> list[str]:
    if path.suffix in PARQUET:
        from pyarrow.parquet import read_schema

        return list(read_schema(path).names)
    return [str(column) for column in pd.read_csv(path, nrows=0).columns]
