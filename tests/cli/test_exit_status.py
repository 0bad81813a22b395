"""Exit statuses, one line for a refusal, and a closed pipe without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dplit.cli.exit_status import OneLineParser, command
from dplit.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
PLAN = ["--rate", "0.01", "--noise-multiplier", "2", "--steps", "10", "--delta", "1e-5"]


def test_a_refusal_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def refuses(arguments: list[str]) -> int:
        raise ConfigurationError(f"{arguments[0]} cannot be meant; leave it out")

    assert refuses(["--x"]) == 2
    assert capsys.readouterr() == ("", "dplit: --x cannot be meant; leave it out\n")


def test_the_status_of_the_command_is_kept_and_other_errors_pass() -> None:
    assert command(len)(["a", "b", "c"]) == 3

    @command
    def breaks(arguments: list[str]) -> int:
        raise BrokenPipeError("of something that is not standard output")

    with pytest.raises(BrokenPipeError, match="not standard output"):
        breaks([])


def test_arguments_come_from_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dplit", "one", "two"])
    assert command(len)() == 2


def test_the_parser_refuses_abbreviations_in_one_line() -> None:
    parser = OneLineParser("dplit x", "does x", "examples: none")
    parser.add_argument("--steps", type=int)
    assert parser.parse_args(["--steps", "3"]).steps == 3
    for wrong in (["--step", "3"], ["--steps", "many"]):
        with pytest.raises(ConfigurationError, match=r"^[^\n]+; see --help$"):
            parser.parse_args(wrong)


def law_a_closed_pipe_is_silent(module: str, *arguments: str, unbuffered: bool) -> None:
    """The reader has gone before the first line is written, as after `| head -0`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    os.close(write_end)
    assert ran.stderr == ""
    assert ran.returncode == 141


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    "line", [["dplit.account", *PLAN], ["dplit", "account", *PLAN], ["dplit", "--help"], ["dplit.fit", "--help"]]
)
def test_a_closed_pipe_is_silent(line: list[str], unbuffered: bool) -> None:
    law_a_closed_pipe_is_silent(*line, unbuffered=unbuffered)


def test_a_command_without_the_guard_is_caught() -> None:
    with pytest.raises(AssertionError):
        law_a_closed_pipe_is_silent("this", unbuffered=False)
