"""What is found by the file it stands in: a new file in a package is a new choice, without a list to keep."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import TypeVar, cast

T = TypeVar("T")


def module_names(path: Iterable[str]) -> list[str]:
    """Return the names of a package's modules, in alphabetical order, without importing them; `__main__` is none of them.

    Args:
        path: the package's `__path__`.
    """
    return sorted(module.name for module in iter_modules(path) if not module.name.startswith("__"))


def modules(package: str, path: Iterable[str]) -> list[ModuleType]:
    """Import and return the modules of a package, in alphabetical order.

    Args:
        package: the package's name.
        path: the package's `__path__`.
    """
    return [import_module(f"{package}.{name}") for name in module_names(path)]


def subclasses(base: Callable[..., T], package: str, path: Iterable[str]) -> list[type[T]]:
    """Return the concrete subclasses of `base` that the modules of a package define, by class name.

    Args:
        base: an abstract class, typed as what makes its instances, since a type checker allows no abstract `type[T]`.
        package: the package's name; its modules are imported.
        path: the package's `__path__`.
    """
    defined = {cls for module in modules(package, path) for cls in defined_in(module, base)}
    return sorted(defined, key=lambda cls: cls.__name__)


def defined_in(module: ModuleType, base: Callable[..., T]) -> list[type[T]]:
    """Return the concrete subclasses of `base` that a module defines itself, and does not merely import."""
    classes = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
    return [cls for cls in classes if issubclass(cls, cast("type[T]", base)) and not inspect.isabstract(cls)]
