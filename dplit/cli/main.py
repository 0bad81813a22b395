"""`dplit COMMAND ...`: finds the commands, lists them, and runs one."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from typing import NamedTuple

import dplit
from dplit.cli import commands
from dplit.cli.exit_status import OK, REFUSED, command
from dplit.discovery import module_names
from dplit.errors import ConfigurationError

HELP = """usage: dplit COMMAND ...

{about}

commands:
{commands}

examples:
{examples}

`dplit COMMAND --help` says more; `python -m dplit COMMAND` and `python -m dplit.COMMAND` are the same. `dplit --version`
prints the version.
"""


class Description(NamedTuple):
    """What the list of commands says of one of them."""

    summary: str
    example: str


def names() -> list[str]:
    """Return the names of all commands: the files of `dplit.cli.commands`.

    Example:
        >>> names()
        ['account', 'compare', 'fit']
    """
    return module_names(commands.__path__)


def describe(name: str) -> Description:
    """Return the first line of a command's docstring and its first line that begins with `dplit`; imports nothing.

    Example:
        >>> describe("account").summary
        'What a run costs, which noise a target needs, which batch size suits it, and what was spent'
    """
    source = files(commands).joinpath(f"{name}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("dplit ")]
    return Description(text.split("\n", 1)[0].rstrip("."), examples[0] if examples else f"dplit {name} --help")


def help_text() -> str:
    """Return what `dplit --help` prints."""
    described = {name: describe(name) for name in names()}
    return HELP.format(
        about=(dplit.__doc__ or "").split("\n", 1)[0],
        commands="\n".join(f"  {name:<10} {what.summary}" for name, what in described.items()),
        examples="\n".join(f"  {what.example}" for what in described.values()),
    )


@command
def main(arguments: list[str]) -> int:
    """Run one command and return its exit status; `arguments` begin with its name."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return OK if arguments else REFUSED
    if arguments[0] in ("-V", "--version"):
        print(f"dplit {dplit.__version__}")
        return OK
    status: int = import_module(f"{commands.__name__}.{_known(arguments[0])}").main(arguments[1:])
    return status


def _known(name: str) -> str:
    known = names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(known)}"
        raise ConfigurationError(f"there is no command {name!r}; {hint}")
    return name
