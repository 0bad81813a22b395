"""How far a journal reaches, kept beside it in one line, so that a journal whose end was cut off is noticed.

The line is overwritten after every record that the disk has, without waiting for the disk again: after a kill it lags by
one record at most, after a power failure by more, and it is never ahead of the journal.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_LINE = re.compile(rb"([0-9a-f]{32}) ([0-9]{20}) ([0-9a-f]{16})\n")


class Mark(NamedTuple):
    """A place in a journal."""

    run_id: str
    entries: int
    """How many entries there are up to it."""
    sum: str
    """The checksum that the last of them carries."""


def head_path(journal: str | os.PathLike[str]) -> Path:
    """Return where the head of a journal lies: `ledger.head` for `ledger.jsonl`."""
    return Path(journal).with_suffix(".head")


class Head:
    """The open head of a journal.

    Args:
        journal: path of the journal.
        new: whether what an earlier file of this name says is to be dropped.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, journal: str | os.PathLike[str], *, new: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if new else 0)
        self._stream = os.fdopen(os.open(head_path(journal), flags, 0o666), "r+b", buffering=0)

    def write(self, mark: Mark) -> None:
        """Say how far the journal reaches now.

        Raises:
            OSError: the disk refuses.
        """
        self._stream.seek(0)
        self._stream.write(f"{mark.run_id} {mark.entries:020d} {mark.sum}\n".encode())

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._stream.close()


def read_head(journal: str | os.PathLike[str]) -> Mark | None:
    """Return what the head of a journal says; None where there is none that can be read."""
    try:
        said = _LINE.fullmatch(head_path(journal).read_bytes())
    except OSError:
        return None
    return None if said is None else Mark(said[1].decode(), int(said[2]), said[3].decode())
