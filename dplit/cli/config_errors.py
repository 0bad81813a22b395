"""One line out of what a configuration parser says of a bad recipe: the key, what was wrong, and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from pkgutil import iter_modules
from typing import Any

TOP = (
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
_NOISE = ("Subtypes:", "Errors:", "Given value", "Does not validate", "Expected a ", "Problem with", "Parser key")
_KEY = re.compile(r'Parser key "([^"]+)": ?')
_CLASS = re.compile(r"Problem with given class_path '([^']+)': ?")


def explain(message: str) -> str:
    """Return the telling part of jsonargparse's nested message as one line.

    Example:
        >>> explain('Parser key "trainer.max_epochs": Does not validate against ...')
        'trainer.max_epochs: expected int or null, got abc'
    """
    if message.startswith("Problems parsing"):
        return " ".join(message.split())
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    deepest = max((i for i, line in enumerate(lines) if _KEY.search(line) or _CLASS.search(line)), default=0)
    where = ".".join(_KEY.findall("\n".join(lines[: deepest + 1])))
    told = _CLASS.sub("", _KEY.sub("", lines[deepest])) if lines else message
    if not told or told.startswith("Does not validate"):
        told = _statement(lines[deepest + 1 :]) or _mismatch(lines[deepest:])
    told = _readable(told) + _nearest(told, _CLASS.findall("\n".join(lines[: deepest + 1])))
    return f"{where}: {told}" if where and where not in told else told


def _statement(lines: list[str]) -> str:
    """The first line that says more than that some type did not fit."""
    return next((line for line in lines if not line.startswith(_NOISE)), "")


def _mismatch(lines: list[str]) -> str:
    text = "\n".join(lines)
    types = re.findall(r"Subtypes: \[(.*)\]", text)
    values = re.findall(r"Given value: (.*)", text)
    if not types:
        return next((line for line in lines if line.startswith("Expected a ")), text)
    wanted = " or ".join(part.strip() for part in types[-1].split(", ")) if types else "another type"
    return f"expected {wanted}, got {values[0] if values else 'something else'}"


def _readable(text: str) -> str:
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda found: "one of " + found[1].replace("'", ""), text)
    text = text.replace("Expected a ", "expected ").replace(". Got value: ", ", got ")
    return re.sub(r"\s+", " ", text).strip()


def _nearest(told: str, classes: list[str]) -> str:
    wrong: str = ""
    known: Iterable[str] = ()
    if found := re.search(r"ption '([^']+)' is not accepted", told):
        wrong, known = found[1], _arguments(classes[-1]) if classes else TOP
    elif found := re.search(r"Group '(\w+)' does not accept option '([^']+)'", told):
        wrong, known = found[2], _arguments("lightning.pytorch.Trainer") if found[1] == "trainer" else ()
    elif found := re.search(r"unrecognized arguments: --trainer\.(\w+)", told):
        wrong, known = found[1], _arguments("lightning.pytorch.Trainer")
    elif found := re.search(r"module '([^']+)' has no attribute '([^']+)'", told):
        wrong, known = found[2], _names(found[1])
    near = get_close_matches(wrong.split(".")[0], list(known), n=1) if wrong else []
    return f"; did you mean {near[0]}?" if near else ""


def _arguments(path: str) -> Iterable[str]:
    """The arguments of a class and of those it passes `**kwargs` on to."""
    module, _, name = path.rpartition(".")
    cls: Any = getattr(import_module(module), name)
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = signature(base.__init__).parameters.values()
            yield from (p.name for p in parameters)
            if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
                return


def _names(module: str) -> Iterable[str]:
    found = import_module(module)
    yield from dir(found)
    yield from (one.name for one in iter_modules(getattr(found, "__path__", [])))
