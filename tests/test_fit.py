"""`python -m dplit.fit` is `dplit fit`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def said(*command: str) -> tuple[int, str, str]:
    ran = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["nothing-like-this"]])
def test_both_ways_say_the_same(arguments: list[str]) -> None:
    status, out, err = said("dplit.fit", *arguments)
    assert (status, out, err) == said("dplit", "fit", *arguments)
    assert status == (0 if arguments == ["--help"] else 2)
    assert out or err
