"""`python -m dplit.account` is `dplit account`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.checkout import ROOT

ARGUMENTS = pytest.mark.parametrize("arguments", [["--help"], ["nothing-like-this"]], ids=["help", "refused"])


def said(*command: str) -> tuple[int, str, str]:
    ran = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def law_both_ways_say_the_same(command: str, arguments: list[str]) -> None:
    status, out, err = said(f"dplit.{command}", *arguments)
    assert (status, out, err) == said("dplit", command, *arguments)
    assert status == (0 if arguments == ["--help"] else 2)
    assert out or err


@ARGUMENTS
def test_both_ways_say_the_same(arguments: list[str]) -> None:
    law_both_ways_say_the_same("account", arguments)
