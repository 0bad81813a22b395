"""What the API reference does to docstrings: doctests, which Markdown would take for quotations, become blocks of code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from griffe import Extension
else:
    try:
        from griffe import Extension
    except ImportError:  # the tests need `fenced` alone
        Extension = object

DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)
"""From the first `>>>` to the next line that is empty or indented less."""


def fenced(docstring: str) -> str:
    """Return the docstring with each doctest in a fence, unless it is in one already."""
    return "".join(
        part if part.startswith("```") else DOCTEST.sub(lambda found: _fence(found[0], found["indent"]), part)
        for part in re.split(r"(```.*?```)", docstring, flags=re.DOTALL)
    )


def _fence(doctest: str, indent: str) -> str:
    return f"{indent}```pycon\n{doctest}\n{indent}```"


class FencedDoctests(Extension):
    """The extension that mkdocstrings loads."""

    def on_object(self, *, obj: Any, **others: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
