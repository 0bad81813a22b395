"""One line out of a configuration parser's long message: the key, what is wrong with it, and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from pkgutil import iter_modules

RECIPE_KEYS = (
    "model",
    "data",
    "trainer",
    "fairness",
    "checkpoint",
    "optimizer",
    "lr_scheduler",
    "seed_everything",
    "ckpt_path",
)
"""The keys at the top of a recipe."""
TRAINER = "lightning.pytorch.Trainer"
_GENERIC = ("Subtypes:", "Errors:", "Given value", "Does not validate", "Expected a ", "Problem with", "Parser key")
_KEY = re.compile(r'Parser key "([^"]+)": ?')
_CLASS = re.compile(r"Problem with given class_path '([^']+)': ?")


def explain(message: str) -> str:
    """Return the specific part of jsonargparse's nested message as one line.

    Args:
        message: of an `ArgumentError`: parsers inside parsers, each with a line of its own and the types it tried.

    Example:
        >>> explain('''Parser key "trainer.max_epochs":
        ...   Does not validate against any of the Union subtypes
        ...   Subtypes: [<class 'int'>, <class 'NoneType'>]
        ...   Errors:
        ...     - Expected a <class 'int'>
        ...     - Expected a <class 'NoneType'>
        ...   Given value type: <class 'str'>
        ...   Given value: abc''')
        'trainer.max_epochs: expected int or null, got abc'
    """
    if message.startswith("Problems parsing"):
        return " ".join(message.split())
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    deepest = max((k for k, line in enumerate(lines) if _KEY.search(line) or _CLASS.search(line)), default=0)
    down_to_deepest = "\n".join(lines[: deepest + 1])
    key, classes = ".".join(_KEY.findall(down_to_deepest)), _CLASS.findall(down_to_deepest)
    problem = _CLASS.sub("", _KEY.sub("", lines[deepest])) if lines else message
    if not problem or problem.startswith("Does not validate"):
        specific = (line for line in lines[deepest + 1 :] if not line.startswith(_GENERIC))
        problem = next(specific, "") or _mismatch(lines[deepest:])
    problem = _readable(problem) + _nearest(problem, classes)
    return f"{key}: {problem}" if key and key not in problem else problem


def _mismatch(lines: Sequence[str]) -> str:
    """Return which types were expected and what was given, where nothing more specific is said."""
    text = "\n".join(lines)
    types = re.findall(r"Subtypes: \[(.*)\]", text)
    values = re.findall(r"Given value: (.*)", text)
    if not types:
        return next((line for line in lines if line.startswith("Expected a ")), text)
    expected = " or ".join(part.strip() for part in types[-1].split(", "))
    return f"expected {expected}, got {values[0] if values else 'something else'}"


def _readable(text: str) -> str:
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda match: "one of " + match[1].replace("'", ""), text)
    text = text.replace("Expected a ", "expected ").replace(". Got value: ", ", got ")
    return re.sub(r"\s+", " ", text).strip()


def _nearest(problem: str, classes: Sequence[str]) -> str:
    """Return `; did you mean ...?` where a name is unknown and a known one is like it."""
    wrong: str = ""
    known: Sequence[str] = ()
    if match := re.search(r"ption '([^']+)' is not accepted", problem):
        wrong, known = match[1], [*_arguments(classes[-1])] if classes else RECIPE_KEYS
    elif match := re.search(r"Group '(\w+)' does not accept option '([^']+)'", problem):
        wrong, known = match[2], [*_arguments(TRAINER)] if match[1] == "trainer" else ()
    elif match := re.search(r"unrecognized arguments: --trainer\.(\w+)", problem):
        wrong, known = match[1], [*_arguments(TRAINER)]
    elif match := re.search(r"module '([^']+)' has no attribute '([^']+)'", problem):
        wrong, known = match[2], [*_names_in(match[1])]
    near = get_close_matches(wrong.split(".")[0], known, n=1) if wrong else []
    return f"; did you mean {near[0]}?" if near else ""


def _arguments(path: str) -> Iterator[str]:
    """Yield the arguments of a class and of those it passes `**kwargs` on to."""
    module, _, name = path.rpartition(".")
    cls: type = getattr(import_module(module), name)
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = signature(base.__dict__["__init__"]).parameters.values()
            yield from (parameter.name for parameter in parameters)
            if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
                return


def _names_in(module: str) -> Iterator[str]:
    imported = import_module(module)
    yield from dir(imported)
    yield from (submodule.name for submodule in iter_modules(getattr(imported, "__path__", [])))
