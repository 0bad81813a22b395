"""What the site does beyond MkDocs: pages made of the repository's own files, links that leave `docs/`, help texts.

A page may link to any file of the repository by a relative path, as GitHub shows it; the site sends such a link to the
repository's address. A link to a file that does not exist is a warning, and with `--strict` an error. A line
`<!-- output: dplit.fit --help -->` becomes what that command prints.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BORROWED = {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that are files at the top of the repository."""
WIDE = {"benchmarks.md", "models.md", "policies.md", "results.md", "reference/commands.md"}
"""Pages of wide tables or texts, which need the room of the table of contents."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
"""The target of a Markdown link that is a relative path, and its anchor."""
JOINED = re.compile(r"(?<=\d) ([±–]) (?=\d)|(?<=\| ≤) (?=\d)")
OUTPUT = re.compile(r"<!-- output: ([\w. -]+) -->")
log = logging.getLogger("mkdocs.hooks.dplit")


def on_files(files: Any, config: Any) -> Any:
    """Add the borrowed pages."""
    from mkdocs.structure.files import File

    for page, source in BORROWED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Send links that leave `docs/` to the repository, print the outputs asked for, and make room for wide tables."""
    path = page.file.src_uri
    if path in WIDE:
        page.meta["hide"] = ["toc"]
    return kept_together(printed(rewritten(markdown, BORROWED.get(path, f"docs/{path}"), config.repo_url)))


def kept_together(markdown: str) -> str:
    """Return the text with spaces in the figures of tables (`0.86 ± 0.01`, `1.1 – 1.3`, `≤ 1.2`) at which no line ends."""

    def joined(match: re.Match[str]) -> str:
        return f"\u00a0{match[1]}\u2060\u00a0" if match[1] else "\u00a0"

    return "\n".join(JOINED.sub(joined, line) if line.startswith("|") else line for line in markdown.split("\n"))


def printed(markdown: str) -> str:
    """Return the text with the output of `python -m` in place of each comment that asks for one."""
    block = '<div class="help" markdown>\n\n```text\n{}\n```\n\n</div>'
    return OUTPUT.sub(lambda match: block.format(_output(match[1].split()).rstrip()), markdown)


def _output(command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    ran = subprocess.run([sys.executable, "-m", *command], env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        log.warning("python -m %s ended with %d: %s", " ".join(command), ran.returncode, ran.stderr.strip()[-300:])
    return ran.stdout


def rewritten(markdown: str, source: str, repository: str) -> str:
    """Return the text with each relative link as the site needs it.

    Args:
        markdown: of a file of the repository.
        source: its path from the repository's root.
        repository: address of the repository.
    """

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        anchor = match[2] or ""
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", source, path)
        for page, borrowed in BORROWED.items():
            if path == borrowed:
                return f"{_from(source, page)}{anchor}"
        if path.startswith("docs/") and (ROOT / path).is_file():
            return f"{_from(source, path.removeprefix('docs/'))}{anchor}"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{repository}/{kind}/main/{path}{anchor}"

    return LINK.sub(target, markdown)


def _from(source: str, page: str) -> str:
    """Return the path from one page of the site to another."""
    folder = posixpath.dirname(source.removeprefix("docs/")) if source.startswith("docs/") else ""
    return posixpath.relpath(page, folder or ".")
