"""Columns of a person's own CSV or Parquet files, held to what the person declared of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dplit.errors import ConfigurationError

Value = str | int | bool
"""A declared class, group or category; compared with what the file says as a word."""

Files = str | Path | list[str]
"""One file, or several that are read one after another."""

PARQUET = (".parquet", ".pq")


def read_columns(files: Files, wanted: Sequence[str], name: str) -> pd.DataFrame:
    """Read the columns `wanted` of one or more files, all their rows in order.

    Args:
        files: CSV, or Parquet by its ending.
        wanted: which columns; others are not looked at.
        name: of the argument that gave the files, for messages.

    Raises:
        ConfigurationError: a file cannot be read, lacks a column, or there is no row in any of them.

    """
    paths = [Path(path) for path in (files if isinstance(files, list) else [files])]
    parts = [_columns(path, list(dict.fromkeys(wanted)), name) for path in paths]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if rows.empty:
        raise ConfigurationError(f"{name}={_shown(paths)} holds no rows; give a file with at least one")
    return rows


def words(raw: pd.Series) -> pd.Series:
    """Return a column as words; what is missing is the empty word.

    Whole numbers that a file keeps as floating point, as it does where some are missing, are written as whole numbers.
    """
    if pd.api.types.is_float_dtype(raw) and bool((raw.dropna() % 1 == 0).all()):
        raw = raw.astype("Int64")
    return raw.astype("str").where(raw.notna(), "")


def numbers(raw: pd.Series, missing: float | None, name: str) -> pd.Series:
    """Return a column as numbers.

    Args:
        raw: the column.
        missing: the declared number for cells that hold none; None refuses them.
        name: of the argument that gave the file, for messages.

    Raises:
        ConfigurationError: a cell holds no number, and no number was declared for it.

    """
    found = pd.to_numeric(raw, errors="coerce").astype(np.float64)
    if missing is not None:
        return found.fillna(missing)
    if found.isna().any():
        row = int(np.flatnonzero(found.isna())[0])
        raise ConfigurationError(
            f"{name}: column {raw.name!r} holds {raw.iloc[row]!r} in row {row + 1}, which is no number; "
            f"declare missing=... for it, or declare the column under categories"
        )
    return found


def codes(rows: pd.DataFrame, column: str, declared: Sequence[str], name: str) -> NDArray[np.int64]:
    """Return the place of every cell in the declared list, `(n,)`.

    Raises:
        ConfigurationError: a cell holds a value that nobody declared.

    """
    held = words(rows[column])
    ids = pd.Index(declared).get_indexer(pd.Index(held))
    if (ids < 0).any():
        row = int(np.flatnonzero(ids < 0)[0])
        raise ConfigurationError(
            f"{name}: column {column!r} holds {held.iloc[row]!r} in row {row + 1}, outside the declared "
            f"{', '.join(declared)}; declare it or mend the file"
        )
    return ids.astype(np.int64)


def declare(values: Sequence[Value], name: str, least: int = 1) -> tuple[str, ...]:
    """Return declared values as words.

    Raises:
        ConfigurationError: there are fewer than `least`, or one stands twice.

    """
    names = tuple(str(value) for value in values)
    if len(names) < least or len(set(names)) != len(names):
        raise ConfigurationError(f"{name}={list(values)} must be at least {least} distinct values; declare them all")
    return names


def _columns(path: Path, wanted: list[str], name: str) -> pd.DataFrame:
    try:
        there = _header(path)
        lacking = [column for column in wanted if column not in there]
        if lacking:
            raise ConfigurationError(
                f"{name}={path} has no column {', '.join(map(repr, lacking))}; it has {', '.join(there)}"
            )
        if path.suffix in PARQUET:
            return pd.read_parquet(path, columns=wanted)
        return pd.read_csv(path, usecols=wanted, dtype=str, na_filter=False)[wanted]
    except ImportError as error:
        raise ConfigurationError(f"{name}={path} is a Parquet file; install dplit[parquet] to read it") from error
    except ConfigurationError:
        raise
    except (OSError, ValueError) as error:  # pandas and pyarrow raise kinds of both
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{name}={path} cannot be read: {said}; give a CSV or Parquet file") from error


def _header(path: Path) -> list[str]:
    if path.suffix in PARQUET:
        from pyarrow.parquet import read_schema

        return list(read_schema(path).names)
    return [str(column) for column in pd.read_csv(path, nrows=0).columns]


def _shown(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "[]"
