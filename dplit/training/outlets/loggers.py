"""Loggers that a step calls by itself, past Lightning: what it hands them is told first, and goes on only if it may."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from operator import setitem
from typing import Any

from lightning.pytorch.loggers import Logger

from dplit.errors import PrivacyError

Tells = Callable[[list[str], str], dict[str, float] | None]
"""Told the names of figures and the road they are to take, such as "CSVLogger.log_metrics".

Returns None where they may go on, else what `log_metrics` is to get in their place, which may be nothing.
"""

TELLS = "_dplit_tells"
EXPERIMENTS = ("experiment", "run")
"""Attributes of a logger that hold the object of the service it writes to."""

HARMLESS = ("save", "finalize", "after_save_checkpoint")
"""Methods of a logger that take no figures."""

PLAIN = (str, bytes, int, float, complex, bool, type(None), list, tuple, set, dict)


@contextmanager
def watched_loggers(loggers: Iterable[Logger], tells: Tells) -> Iterator[None]:
    """Within, ask `tells` before anything that is handed to one of `loggers`, by whichever name it is reached, goes on.

    Raises:
        PrivacyError: a logger that cannot be watched.
    """
    once = {id(logger): logger for logger in loggers}.values()
    with ExitStack() as stack:
        for logger in once:
            stack.callback(_unwatch, logger, type(logger), _watch(logger, tells))
        yield


def _watch(logger: Logger, tells: Tells) -> Tells | None:
    """Have a logger ask `tells`, and return what it asked before: a block within another asks its own, then the outer's again."""
    kind = type(logger)
    try:
        asked: Tells | None = vars(logger).get(TELLS)
        vars(logger)[TELLS] = tells
        if asked is None:
            logger.__class__ = _watched(kind)
    except TypeError as error:
        raise PrivacyError(
            f"{kind.__name__} cannot be watched ({error}), so what training_step hands it would leave unlisted; train "
            "without it, or with a logger that is a plain Python class"
        ) from error
    return asked


def _unwatch(logger: Logger, kind: type[Logger], asked: Tells | None) -> None:
    logger.__class__ = kind
    if asked is None:
        vars(logger).pop(TELLS, None)
    else:
        vars(logger)[TELLS] = asked


@cache
def _watched(kind: type[Logger]) -> type[Logger]:
    """Return a subclass of a logger's class that asks before it takes anything."""

    def attribute(self: Logger, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if name in EXPERIMENTS or (callable(value) and not name.startswith("_")):
            return _proxied(value, f"{kind.__name__}.{name}", _Door(self, kind))
        return value

    return type(kind.__name__, (kind,), {"__getattribute__": attribute, "__slots__": (), "__module__": __name__})


class _Door:
    """What stands before a logger: it asks, and is open while the logger does what it was let do."""

    def __init__(self, logger: Logger, kind: type[Logger]) -> None:
        self.logger, self.kind = logger, kind
        self.tells: Tells = vars(logger)[TELLS]

    def call(self, target: Callable[..., Any], road: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        method = road.rpartition(".")[2]
        instead = None if method in HARMLESS else self.tells(_names(road, args, kwargs), road)
        if instead is None:
            return self._opened(target, args, kwargs)
        return self._opened(target, (instead,), {}) if instead and road == f"{self.kind.__name__}.log_metrics" else None

    def _opened(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watched, self.logger.__class__ = type(self.logger), self.kind
        try:
            return target(*args, **kwargs)
        finally:
            self.logger.__class__ = watched


def _names(road: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Return the names of the figures in a call: the keys of a mapping, a first text, or else the name of what is called."""
    given = [*args, *kwargs.values()]
    mapping = next((value for value in given if isinstance(value, Mapping)), None)
    if mapping is not None:
        return [str(key) for key in mapping]
    text = next((value for value in given if isinstance(value, str)), None)
    return [road if text is None else text]


def _proxied(value: Any, road: str, door: _Door) -> Any:
    return value if isinstance(value, PLAIN) else _Watched(value, road, door)


class _Watched:
    """Stands for an object of a logger; whatever is called, set or put into it is told first."""

    __slots__ = ("_door", "_road", "_target")

    def __init__(self, target: Any, road: str, door: _Door) -> None:
        for name, value in (("_target", target), ("_road", road), ("_door", door)):
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._target)

    def __getattr__(self, name: str) -> Any:
        return _proxied(getattr(self._target, name), f"{self._road}.{name}", self._door)

    def __getitem__(self, key: Any) -> Any:
        return _proxied(self._target[key], f"{self._road}[{key!r}]", self._door)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._door.call(self._target, self._road, args, kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        self._door.call(partial(setattr, self._target), f"{self._road}.{name}", (name, value), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self._door.call(partial(setitem, self._target), f"{self._road}[{key!r}]", (key, value), {})
