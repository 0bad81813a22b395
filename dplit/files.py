"""Files and folders that are written whole or not at all, and paths that are not taken yet."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary stream whose content takes the place of `path` when the block ends without an error.

    It is written beside the destination, synced to the disk and renamed, so that whoever looks, also after a kill, sees
    the old file or the new one. The new file has the permissions that the process gives to every new file.

    Raises:
        OSError: the folder cannot be made or written; the old file stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with open(beside, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole or not at all; text is written as UTF-8, its line ends as they are.

    Raises:
        OSError: as `replacing` does.
    """
    with replacing(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `path` when the block ends without an error.

    Raises:
        FileExistsError: there is something at `path`.
        OSError: the folder cannot be made or renamed.
    """
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target} exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        inside = Path(scratch) / target.name
        inside.mkdir()
        yield inside
        os.rename(inside, target)


def next_free_path(path: str | os.PathLike[str]) -> Path:
    """Return `path`, or the first of `NAME-2`, `NAME-3`, … beside it that does not exist; the suffix is kept."""
    return next(p for p in _numbered(Path(path)) if not p.exists())


def claim(path: str | os.PathLike[str]) -> Path:
    """Create an empty file at the first free path, as `next_free_path` counts, and return it; no two processes get the same.

    Raises:
        OSError: the folder cannot be made or written.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for free in _numbered(Path(path)):
        try:
            free.touch(exist_ok=False)
        except FileExistsError:
            continue
        return free
    raise AssertionError("there is always a larger number")


def set_aside(path: str | os.PathLike[str], place: str | os.PathLike[str]) -> Path:
    """Move a file or folder to the first free path at `place`, and return that path.

    Raises:
        OSError: it cannot be moved.
    """
    free = next_free_path(place)
    free.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(os.fspath(path), free)
    return free


def _numbered(path: Path) -> Iterator[Path]:
    return chain([path], (path.with_stem(f"{path.stem}-{i}") for i in count(2)))
