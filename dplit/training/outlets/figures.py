"""Which figures of private records leave a run through Lightning, and which are held back."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from typing_extensions import override

from dplit.protocols import LogsFigures, ReleasesSplits, callbacks_of
from dplit.training.outlets.loggers import watched_loggers
from dplit.training.outlets.results import watch_results
from dplit.training.outlets.steering import check_figure, check_steering, is_logged_by, split_of, steering

STEP = "training_step"
EVALUATED = ("validation", "test")


class Figure(NamedTuple):
    """A figure that left."""

    name: str
    hook: str
    """Where it was logged or handed on."""
    road: str = ""
    """Which logger it was handed to, past Lightning's own logging."""

    def __str__(self) -> str:
        where = f"given to {self.road} by {self.hook}" if self.road else f"logged by {STEP}"
        return f"{self.name}: exact, {where if self.road or self.hook == STEP else f'logged outside {STEP}'}"


class Figures:
    """What a private run lets out of the figures that its hooks log, or hand to loggers.

    Args:
        training_logs: whether figures of `training_step` leave.
        steered_by: names of exact figures that may steer training.
        public_splits: "validation", "test", whose records are declared free to publish.
    """

    def __init__(
        self, training_logs: bool = True, steered_by: Sequence[str] = (), public_splits: Sequence[str] = ()
    ) -> None:
        self.training_logs = training_logs
        self.steered_by = tuple(steered_by)
        self.public_splits = tuple(public_splits)
        self._trainer: Trainer | None = None
        self._silent = False
        self._left: set[Figure] = set()
        self._held: set[str] = set()
        self._admitted: set[str] = set()
        self._has_dropped = False
        self._steering: dict[str, None] = {}

    # -- while a trainer runs ----------------------------------------------------------------------------------------

    def attach(self, trainer: Trainer) -> None:
        """Decide from now on what a trainer's hooks may log."""
        self._trainer = trainer
        watch_results(trainer, self.admits)

    def check_steering(self, trainer: Trainer) -> None:
        """Refuse what would decide by exact figures of private records.

        Raises:
            PrivacyError: naming who watches what.
        """
        check_steering(trainer, self.steered_by, self._public(trainer))

    def admits(self, name: str, hook: str) -> bool:
        """Whether a hook may log a figure; what it logs is listed.

        Raises:
            PrivacyError: a callback or scheduler would decide by it, and it is exact and of private records.
        """
        trainer = self._running
        if not self._silent and self._is_spoken_for(trainer, name, hook):
            return True
        if not self._may_leave(trainer, [name], hook):
            return False
        if trainer.state.fn == "fit":
            check_figure(trainer, name, hook, self.steered_by, self._public(trainer))
        self._list(trainer, [name], hook)
        return True

    @contextmanager
    def step(self, hook: str) -> Iterator[None]:
        """While a step of the module runs, ask before anything goes to a logger or into the trainer's figures by itself."""
        trainer = self._running

        def hand(names: list[str], road: str) -> dict[str, float] | None:
            if not self._may_leave(trainer, names, hook):
                return self._hold(names, hook, road)
            self._list(trainer, names, hook, road)
            return None

        with watched_loggers(trainer.loggers, hand), self._watched_dictionaries(trainer, hook):
            yield

    @contextmanager
    def silence(self) -> Iterator[None]:
        """While trials run that are no step of the fit, let nothing out: no figure, and nothing that is printed."""
        before, self._silent = self._silent, True
        try:
            with self.step(STEP), redirect_stdout(_Nowhere()):
                yield
        finally:
            self._silent = before

    def _is_spoken_for(self, trainer: Trainer, name: str, hook: str) -> bool:
        speaks = [callback for callback in callbacks_of(trainer) if isinstance(callback, LogsFigures)]
        return hook != STEP and any(name in callback.logged_keys for callback in speaks)

    def _may_leave(self, trainer: Trainer, names: Sequence[str], hook: str) -> bool:
        """Whether figures are let out, on whichever road; says once that a charged split's are not."""
        if self._silent or (hook == STEP and not self.training_logs):
            return False
        if split_of(hook) in EVALUATED and self._drops_exact(trainer):
            self._say_dropped(trainer, names, hook)
            return False
        return True

    def _hold(self, names: Sequence[str], hook: str, road: str) -> dict[str, float]:
        """Note figures that are kept from a logger, and return NaN for those that it is kept from for the first time."""
        lines = {} if self._silent else {name: f"{name}: held back where {hook} gives it to {road}" for name in names}
        fresh = [name for name, line in lines.items() if line not in self._held]
        self._held.update(lines.values())
        return dict.fromkeys(fresh, math.nan)

    def _list(self, trainer: Trainer, names: Sequence[str], hook: str, road: str = "") -> None:
        """Note figures that leave, for the statement; those of public records need no line."""
        self._admitted.update(names)
        if split_of(hook) not in self._public(trainer):
            self._left.update(Figure(name, hook, road) for name in names)

    def _drops_exact(self, trainer: Trainer) -> bool:
        monitors = [c for c in callbacks_of(trainer) if isinstance(c, ReleasesSplits) and c.release == "noisy"]
        return bool(monitors) and all(monitor.drop_exact for monitor in monitors)

    def _say_dropped(self, trainer: Trainer, names: Sequence[str], hook: str) -> None:
        if names and not self._has_dropped and trainer.is_global_zero:
            self._has_dropped = True
            print(
                f"dplit: dropped {', '.join(names)} and whatever else {hook} logs: exact figures of the records whose noisy "
                "counts are charged; FairnessMonitor(release='noisy', drop_exact=False) keeps them, and no ε is stated for "
                "the split",
                file=sys.stderr,
            )

    @contextmanager
    def _watched_dictionaries(self, trainer: Trainer, hook: str) -> Iterator[None]:
        """List, or take back, what a step writes into `trainer.callback_metrics` and its like by itself."""
        connector = trainer._logger_connector
        places: tuple[dict[str, Any], ...] = (
            connector._callback_metrics,
            connector._logged_metrics,
            connector._progress_bar_metrics,
        )
        before = [dict(place) for place in places]
        try:
            yield
        finally:
            new = [name for place, kept in zip(places, before, strict=True) for name in place if name not in kept]
            if self._may_leave(trainer, unlisted := [name for name in new if not self._is_listed(name)], hook):
                self._list(trainer, unlisted, hook, "the trainer's figures")
            else:
                for place, kept in zip(places, before, strict=True):
                    place.clear()
                    place.update(kept)

    def _is_listed(self, figure: str) -> bool:
        return any(is_logged_by(name, figure) for name in self._admitted)

    def _public(self, trainer: Trainer) -> Collection[str]:
        declared = [c for c in callbacks_of(trainer) if isinstance(c, ReleasesSplits) and c.release == "public"]
        return EVALUATED if declared else self.public_splits

    @property
    def _running(self) -> Trainer:
        assert self._trainer is not None
        return self._trainer

    # -- for the statement -------------------------------------------------------------------------------------------

    def released(self, trainer: Trainer) -> set[str]:
        """Return a line for each exact figure that left uncharged, but for those that a callback lists itself."""
        spoken = {key for c in callbacks_of(trainer) if isinstance(c, LogsFigures) for key in c.logged_keys}
        direct = [name for name in trainer.callback_metrics if name not in spoken and not self._is_listed(name)]
        self._left.update(Figure(name, "") for name in direct)
        losses = (f"loss: exact mean of each draw, given to {who}" for who in self._take_losses(trainer))
        return {str(figure) for figure in self._left} | self._held | set(losses)

    def exact_by_split(self, trainer: Trainer) -> dict[str, list[str]]:
        """Return the names of the exact figures of private records of "validation" and "test" that left."""
        flagged = [c for c in callbacks_of(trainer) if isinstance(c, ReleasesSplits) and c.release == "flagged"]
        keys = [key for callback in flagged if isinstance(callback, LogsFigures) for key in callback.logged_keys]
        exact = {(split_of(figure.hook), figure.name) for figure in self._left}
        exact |= {("test" if key.startswith("test_") else "validation", key) for key in keys}
        return {split: sorted(name for of, name in exact if of == split) for split in EVALUATED}

    def steering(self, trainer: Trainer) -> list[str]:
        """Return a line for each figure that the weights depend on, beside the noisy gradients."""
        if trainer.state.fn == "fit":
            self._steering |= dict.fromkeys(steering(trainer, self.steered_by, self._public(trainer)))
        return list(self._steering)

    def public(self, trainer: Trainer) -> list[str]:
        """Return a line for each split that was declared public."""
        return [f"the records of {split} are free to publish, as was declared" for split in self._public(trainer)]

    def _take_losses(self, trainer: Trainer) -> Iterable[str]:
        hooks: list[Any] = [trainer.lightning_module, *callbacks_of(trainer)] if self.training_logs else []
        for owner in hooks:
            if not _is_of(owner.on_train_batch_end, ("lightning", "dplit")):
                yield f"{type(owner).__name__}.on_train_batch_end"


def _is_of(hook: object, packages: Collection[str]) -> bool:
    return str(getattr(hook, "__module__", "")).partition(".")[0] in packages


class _Nowhere(StringIO):
    """A terminal that shows nothing, except what a debugger says."""

    @override
    def write(self, text: str, /) -> int:
        terminal = sys.__stdout__
        return terminal.write(text) if sys.gettrace() is not None and terminal is not None else len(text)
