"""Classes found by the file they stand in: a new file in a package is a new choice, without a list to keep."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules


def subclasses(base: type, package: str, path: Iterable[str]) -> list[type]:
    """Return the concrete subclasses of `base` that the modules of a package define, by class name.

    Args:
        base: an abstract class.
        package: the package's name; its modules are imported.
        path: the package's `__path__`.
    """
    names = [module.name for module in iter_modules(path) if not module.name.startswith("__")]
    modules = [import_module(f"{package}.{name}") for name in names]
    defined = {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, base) and cls.__module__ == module.__name__
    }
    return sorted((cls for cls in defined if not inspect.isabstract(cls)), key=lambda cls: cls.__name__)
