"""What every command has in common: exit statuses, refusals in one line, and an output that nobody reads any more."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import NoReturn, Protocol

from dplit.errors import ConfigurationError, DplitError

OK, REFUSED, CLOSED_PIPE = 0, 2, 141
"""Exit statuses of every command; 141 is what a shell says of a program that `head` has cut off."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that says in one line what is wrong, and takes no abbreviations."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{message}; see --help")


class Main(Protocol):
    """The `main` of a command."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command with these arguments, or with those of the process; return the exit status."""


def command(run: Callable[[list[str]], int]) -> Main:
    """Make the `main` of a command out of a function from arguments to an exit status.

    The `main` takes the arguments of the process where none are given. It prints a `DplitError` as one line on standard
    error and returns `REFUSED`. It returns `CLOSED_PIPE` without a word where the reader of standard output has gone,
    as in `dplit account ... | head -1`.
    """

    @wraps(run)
    def main(arguments: Sequence[str] | None = None) -> int:
        try:
            try:
                return run(list(sys.argv[1:] if arguments is None else arguments))
            except DplitError as error:
                print(f"dplit: {error}", file=sys.stderr)
                return REFUSED
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            if not _nobody_reads():
                raise
            return CLOSED_PIPE

    return main


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that has lost its reader; if so, what is still buffered goes to nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # errors are reported whatever is asked for
    if not any(state & (select.POLLERR | select.POLLHUP) for _, state in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
