"""The write-ahead journal: what is about to be released is on disk before noise for it is drawn.

One JSON object a line: a header with the format version and the run's id, then records and notes in order. Every line
ends in a checksum chained over the line before it. A line counts once it is complete; a torn last line was never
acted upon, because whoever releases waits for `Journal.append`, and is cut off when the journal is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from filelock import FileLock, Timeout

from dplit import validation
from dplit.errors import ConfigurationError, JournalError
from dplit.privacy.events import Event
from dplit.privacy.head import Head, Mark, read_head

FORMAT = 1
LOCK_WAIT = 1.0
"""Seconds to wait for another writer, whose workers may outlive it for a moment."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_SUM = b',"sum":"'
_TAIL = len(_SUM) + 16 + len(b'"}')
_sync = getattr(os, "fdatasync", os.fsync)


class Record(NamedTuple):
    """`event`, released `times` times from the records of `split`.

    `unit` is the key that says whose a record is, where it is charged for a person; None where it is for a record.
    """

    event: Event
    times: int
    split: str
    unit: str | None = None


class Declared(NamedTuple):
    """What else must be known to read the figures off a journal.

    `names` are for `what`: "groups", all declared groups; "disjoint", splits of which no two share a record; "overlapping",
    two splits that do; "unit", a split and the key that says whose its records are.
    """

    what: str
    names: tuple[str, ...]


DECLARATIONS = ("groups", "disjoint", "overlapping", "unit")

Entry = Record | Declared | str
"""A line of a journal; a note is plain text."""


@dataclass(frozen=True)
class Contents:
    """What a journal says.

    Attributes:
        run_id: 32 hexadecimal digits.
        entries: records, declarations, and notes as plain text, in order.
        sums: the checksum after the header and after each entry, so one more than there are entries.
        size: bytes that count; whatever lies behind them is torn.
        unfinished: the last counted line lacks its line end.
    """

    run_id: str
    entries: tuple[Entry, ...]
    sums: tuple[str, ...]
    size: int
    unfinished: bool


class Journal:
    """An open journal, held by one writer at a time; use `create` or `reopen`, and close it or use it in a `with`."""

    def __init__(self, path: Path, lock: FileLock, stream: BinaryIO, contents: Contents) -> None:
        self.path = path
        self.run_id = contents.run_id
        self.contents = contents
        """What the journal held when it was opened."""
        self._lock, self._stream, self._head = lock, stream, _head(path, contents)
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._sum, self._count = contents.sums[-1], len(contents.entries)

    @classmethod
    def create(cls, path: str | os.PathLike[str], run_id: str | None = None) -> Journal:
        """Start a journal with a header line; `run_id` is a uuid4 in hexadecimal, drawn if not given.

        Raises:
            JournalError: the file already has content, is being written by another process, or cannot be written.
        """
        place, run_id = Path(path), _checked_run_id(run_id or uuid.uuid4().hex)
        with _refusing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(place)
        try:
            stream = _start(place, run_id)
            return cls(place, lock, stream, load(place))
        except BaseException:
            lock.release()
            raise

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> Journal:
        """Open an existing journal to go on writing; a torn last line is cut off.

        Raises:
            JournalError: the file is missing, damaged, or being written by another process.
        """
        place = Path(path)
        _require(place)
        lock = _locked(place)
        try:
            contents = load(place)
            return cls(place, lock, _mend(place, contents), contents)
        except BaseException:
            lock.release()
            raise

    @property
    def mark(self) -> dict[str, int | str]:
        """How far the journal reaches: {"entries": count, "sum": checksum of the last line}."""
        return {"entries": self._count, "sum": self._sum}

    def append(self, record: Record) -> None:
        """Write one record and wait until the disk has it.

        Raises:
            JournalError: the journal is closed or the disk refuses; nothing may be released then.
        """
        self.begin(record)()

    def begin(self, record: Record) -> Callable[[], None]:
        """Write one record and return what waits until the disk has it, so that work can go on meanwhile.

        Raises:
            JournalError: as `append` does; the wait raises it too, where the disk refuses.
        """
        unit = "" if record.unit is None else f',"unit":{_text_json(record.unit)}'
        return self._write(
            f'"event":{_event_json(record.event)},"times":{record.times},"split":{_text_json(record.split)}{unit}'
        )

    def note(self, text: str) -> None:
        """Write one remark and wait until the disk has it; raises as `append` does."""
        self._write(f'"note":{_text_json(text)}')()

    def declare(self, declared: Declared) -> None:
        """Write one declaration and wait until the disk has it; raises as `append` does."""
        names = ",".join(map(_text_json, declared.names))
        self._write(f'"declared":{_text_json(declared.what)},"names":[{names}]')()

    def write(self, entry: Entry) -> None:
        """Write an entry of whatever kind and wait until the disk has it; raises as `append` does."""
        if isinstance(entry, Record):
            self.append(entry)
        elif isinstance(entry, Declared):
            self.declare(entry)
        else:
            self.note(entry)

    def _write(self, fields: str) -> Callable[[], None]:
        if self._stream.closed:
            raise JournalError(f"{self.path} is closed, so nothing more may be recorded or released; reopen it")
        line, total = _sealed(f'{{"seq":{self._count + 1},{fields}}}'.encode(), self._sum)
        with self._closing():
            _put(self._stream, line)
        self._sum, self._count = total, self._count + 1
        mark = Mark(self.run_id, self._count, total)
        synced = self._syncer.submit(_sync, self._stream.fileno())

        def wait() -> None:
            with self._closing():
                synced.result()
                self._head.write(mark)

        return wait

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Close the journal when the disk refuses: nothing may be released on a record that it does not have."""
        try:
            yield
        except OSError as error:
            self.close()
            raise JournalError(f"{self.path} cannot be written ({error}); make room, then resume the run") from error

    @property
    def closed(self) -> bool:
        """Whether it was closed; a closed journal takes no records."""
        return self._stream.closed

    def close(self) -> None:
        """Close the file and let go of the lock; closing twice is harmless."""
        self._syncer.shutdown(wait=True)
        self._stream.close()
        self._head.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_of(path: str | os.PathLike[str]) -> str | None:
    """Return the run id in the header of a journal; None for a file that is no journal."""
    place = Path(path)
    try:
        with place.open("rb") as stream:
            line = stream.readline(1024)
        return _header(place, _opened(place, 1, line.rstrip(b"\n"), "")[0])
    except (OSError, JournalError):
        return None


def load(path: str | os.PathLike[str]) -> Contents:
    """Read a journal without locking or changing it.

    Raises:
        JournalError: the file is missing, is no journal, or a line other than a torn last one is damaged; the
            message names path and line.
    """
    place = Path(path)
    _require(place)
    with _refusing(place):
        raw = place.read_bytes()
    lines, torn = _split(place, raw)
    run_id, entries, sums = "", [], [""]
    for number, line in enumerate(lines, 1):
        fields, total = _opened(place, number, line, sums[-1])
        sums.append(total)
        if number == 1:
            run_id = _header(place, fields)
        else:
            entries.append(_entry(place, number, fields))
    return Contents(run_id, tuple(entries), tuple(sums[1:]), len(raw) - len(torn), not raw.endswith(b"\n") and not torn)


def _split(path: Path, raw: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines that count and the torn rest.

    A rest without line end counts if it is a complete line. One that is complete but for its last byte had its line
    end overwritten: never the trace of a torn write, so it is kept for the checksum to refuse.
    """
    *lines, rest = raw.split(b"\n")
    if _looks_sealed(rest) or _looks_sealed(rest[:-1]):
        return [*lines, rest], b""
    if not lines:
        raise JournalError(f"{path} line 1 is damaged or no journal header; restore the file or start a new run")
    return lines, rest


def _looks_sealed(line: bytes) -> bool:
    return len(line) > _TAIL and line[-_TAIL:].startswith(_SUM) and line.endswith(b'"}')


def _sealed(body: bytes, before: str) -> tuple[bytes, str]:
    """Return the line, and the checksum it carries, chained to the checksum `before`."""
    total = hashlib.sha256(before.encode() + body).hexdigest()[:16]
    return body[:-1] + _SUM + total.encode() + b'"}\n', total


def _opened(path: Path, number: int, line: bytes, before: str) -> tuple[dict[str, object], str]:
    body = line[:-_TAIL] + b"}"
    expected, total = _sealed(body, before)
    if line + b"\n" != expected:
        raise _damaged(path, number)
    try:
        return dict(json.loads(body)), total
    except (ValueError, TypeError) as error:
        raise _damaged(path, number) from error


def _damaged(path: Path, number: int) -> JournalError:
    return JournalError(
        f"{path} line {number} is damaged, so what was released cannot be counted; restore the file from a copy"
    )


def _header(path: Path, fields: dict[str, object]) -> str:
    if fields.get("format") != FORMAT:
        raise JournalError(f"{path} has format {fields.get('format')!r}, this dplit reads {FORMAT}; use a newer dplit")
    return _checked_run_id(fields.get("run_id"))


def _entry(path: Path, number: int, fields: dict[str, object]) -> Entry:
    if fields.get("seq") != number - 1:
        raise _damaged(path, number)
    if "note" in fields:
        return str(fields["note"])
    if "declared" in fields:
        return _declaration(path, number, fields)
    try:
        event, times, unit = _event(json.dumps(fields["event"])), fields["times"], fields.get("unit")
        return Record(
            event, validation.count("times", times), str(fields["split"]), None if unit is None else str(unit)
        )
    except (KeyError, ConfigurationError) as error:
        raise JournalError(f"{path} line {number} holds a record this dplit cannot read ({error})") from error


def _declaration(path: Path, number: int, fields: dict[str, object]) -> Declared:
    what, names = fields["declared"], fields.get("names")
    if what not in DECLARATIONS or not isinstance(names, list):
        raise JournalError(f"{path} line {number} declares {what!r}, which this dplit does not know; use a newer dplit")
    return Declared(str(what), tuple(map(str, names)))


def _head(path: Path, contents: Contents) -> Head:
    """Open the head; what it says of this run stays until there is more to say."""
    said = read_head(path)
    new = said is None or said.run_id != contents.run_id
    with _refusing(path):
        head = Head(path, new=new)
        if new:
            head.write(Mark(contents.run_id, len(contents.entries), contents.sums[-1]))
    return head


def _start(path: Path, run_id: str) -> BinaryIO:
    with _refusing(path):
        stream = path.open("ab", buffering=0)
        if os.fstat(stream.fileno()).st_size:
            stream.close()
            raise JournalError(f"{path} has content and is never overwritten; resume that run or choose a new path")
        _put(stream, _sealed(json.dumps({"format": FORMAT, "run_id": run_id}, separators=(",", ":")).encode(), "")[0])
        _sync(stream.fileno())
        _sync_directory(path.parent)
    return stream


def _mend(path: Path, contents: Contents) -> BinaryIO:
    """Open for appending behind what counts."""
    with _refusing(path):
        stream = path.open("ab", buffering=0)
        stream.truncate(contents.size)
        _put(stream, b"\n" if contents.unfinished else b"")
        _sync(stream.fileno())
    return stream


def _put(stream: BinaryIO, line: bytes) -> None:
    written = stream.write(line)
    if written != len(line):
        raise OSError(f"only {written} of {len(line)} bytes were written")


def _sync_directory(path: Path) -> None:
    """Make a new file's name durable, where directories can be opened."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _require(path: Path) -> None:
    if not path.is_file():
        raise JournalError(f"{path} does not exist, so what was released is unknown; restore it beside the checkpoint")


def _locked(path: Path) -> FileLock:
    lock = FileLock(f"{path}.lock")
    try:
        with _refusing(path):
            lock.acquire(timeout=LOCK_WAIT)
    except Timeout as error:
        raise JournalError(f"{path} is being written by another process; wait for that run or stop it") from error
    return lock


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        raise JournalError(f"{path} cannot be opened as a journal ({error}); choose a writable local path") from error


def is_run_id(run_id: object) -> bool:
    """Whether this is a uuid4 in hexadecimal, as every run has one."""
    return isinstance(run_id, str) and _RUN_ID.fullmatch(run_id) is not None


def _checked_run_id(run_id: object) -> str:
    if not isinstance(run_id, str) or not is_run_id(run_id):
        raise JournalError(f"run id {run_id!r} is not a uuid4 in hexadecimal; let dplit draw one")
    return run_id


@lru_cache(maxsize=1024)
def _event_json(event: Event) -> str:
    return json.dumps(event.to_dict(), separators=(",", ":"))


@lru_cache(maxsize=1024)
def _event(text: str) -> Event:
    return Event.from_dict(json.loads(text))


@lru_cache(maxsize=64)
def _text_json(text: str) -> str:
    return json.dumps(text)
