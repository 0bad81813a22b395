"""Where examples were mixed: the operation, the line of the person's code, and two of the examples."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch

_TORCH = str(Path(torch.__file__).parent) + os.sep
_DPLIT = str(Path(__file__).parents[2]) + os.sep
_FOLLOWING = frozenset(str(Path(__file__).parent / f"{name}.py") for name in ("blame", "ownership", "python_reads"))
_PASSES_ON = frozenset(
    {"__torch_function__", "_apply", "_apply_without_rule", "_apply_to_no_rows", "_derive", "_derive_in_place", "_loss"}
)
"""Functions of dplit that call what the model asked for, so that what is read below them, the model reads."""
_STANDARD = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = sysconfig.get_path("purelib") + os.sep
"""Folders end with a separator, so that dplit_models beside dplit, or torchvision beside torch, is not taken for inside."""


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{short(self.file)}:{self.line}"


class Blame(NamedTuple):
    """One operation that mixed examples."""

    operation: str
    place: Place
    examples: tuple[int, int] | None
    """Two that met, where they are known."""
    why: str = ""

    def __str__(self) -> str:
        met = "" if self.examples is None else f" example {self.examples[0]} with example {self.examples[1]}"
        return f"{self.operation} at {self.place} mixes{met or ' examples'}{self.why and f' ({self.why})'}"


def place() -> Place:
    """Return the line of the innermost frame that is outside of torch and dplit; where all are inside, the outermost.

    Code of an installed package is passed by if it was called from the person's own.
    """
    outside = [frame for frame in _frames() if not _is_inside(frame.f_code)]
    frame = outside[0] if outside else sys._getframe(1)
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)


def is_own() -> bool:
    """Whether the present operation was asked for by dplit itself, such as the tape's bookkeeping."""
    file = next((f.f_code.co_filename for f in _frames() if not f.f_code.co_filename.startswith(_TORCH)), "")
    return file.startswith(_DPLIT)


def trail() -> tuple[Place, ...]:
    """Return the lines outside of torch and dplit that lead to the present operation, innermost first."""
    return tuple(Place(frame.f_code.co_filename, frame.f_lineno) for frame in _frames() if not _is_inside(frame.f_code))


def short(file: str) -> str:
    """Return a file's path as a message shows it: without the folder of installed packages."""
    path = Path(file)
    for root in (_INSTALLED, Path.cwd()):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return path.name if path.is_absolute() else file


def _frames() -> Iterator[FrameType]:
    """Yield the frames that lead to the present operation, innermost first, without those that follow it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename not in _FOLLOWING and not _passes_on(frame.f_code):
            yield frame
        frame = frame.f_back


def _passes_on(code: CodeType) -> bool:
    return code.co_name in _PASSES_ON and code.co_filename.startswith(_DPLIT)


def _is_inside(code: CodeType) -> bool:
    file = code.co_filename
    standard = file.startswith(_STANDARD) and not file.startswith(_INSTALLED) and "site-packages" not in file
    return standard or file.startswith((_TORCH, _DPLIT, "<frozen"))
