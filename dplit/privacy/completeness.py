"""Whether a journal is whole: it must reach as far as what lies beside it says. A cut journal cannot tell by itself."""

from __future__ import annotations

import os
from pathlib import Path

from dplit.errors import JournalError
from dplit.privacy.head import head_path, read_head
from dplit.privacy.journal import Contents, Record, load
from dplit.privacy.statement import read_statement, statement_path


def check_reaches(path: str | os.PathLike[str], contents: Contents) -> str | None:
    """Refuse a journal that holds less than its head says, or another history; return the name of the head, if any.

    Raises:
        JournalError: with both numbers.
    """
    head = read_head(path)
    if head is None or head.run_id != contents.run_id:
        return None
    return _compared(Path(path), contents, head_path(path).name, head.entries, head.sum)


def check_whole(path: str | os.PathLike[str]) -> list[str]:
    """Return what a journal was compared with: its head, and the statement of its run beside it, where there are any.

    Raises:
        JournalError: the journal holds less than one of them says, or another history; or it is damaged.
    """
    place = Path(path)
    contents = load(place)
    return [name for name in (check_reaches(place, contents), _check_statement(place, contents)) if name]


def _check_statement(path: Path, contents: Contents) -> str | None:
    place = statement_path(path.parent, contents.run_id)
    stated = None if place is None else read_statement(place)
    if place is None or stated is None:
        return None
    recorded = stated.get("recorded")
    if isinstance(recorded, dict):
        return _compared(path, contents, place.name, recorded.get("entries"), recorded.get("sum"))
    return _compared_steps(path, contents, place.name, stated.get("steps"))


def _compared(path: Path, contents: Contents, name: str, entries: object, total: object) -> str | None:
    """Compare with a mark; return the name, or None where it is no mark."""
    if not isinstance(entries, int) or not isinstance(total, str):
        return None
    held = len(contents.entries)
    if held < entries:
        raise _shorter(path, f"{held} entries", f"{entries}", name)
    if contents.sums[entries] != total:
        raise JournalError(f"{path} tells another history than {name} beside it; restore the run's own journal")
    return name


def _compared_steps(path: Path, contents: Contents, name: str, steps: object) -> str | None:
    """Compare with a statement of version 0.1.0, which knows only the number of steps."""
    held = sum(entry.times for entry in contents.entries if isinstance(entry, Record) and entry.split == "train")
    if not isinstance(steps, int):
        return None
    if held < steps:
        raise _shorter(path, f"{held} steps", f"{steps}", name)
    return name


def _shorter(path: Path, held: str, said: str, name: str) -> JournalError:
    return JournalError(
        f"{path} has {held}, {name} beside it says {said}: its end was cut off, and what it says was spent is too little; "
        "restore the full journal"
    )
