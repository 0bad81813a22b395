"""Lightning's collections of logged figures, which ask before they take one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from typing_extensions import override

Admits = Callable[[str, str], bool]
"""Whether a figure may be taken, by its name and the hook that logs it; what may not never reaches bar, callback or logger."""


class WatchedResults(_ResultCollection):
    """Everything that `self.log` is called with; a figure that is not admitted is dropped before anyone can read it."""

    def __init__(self, training: bool, admits: Admits) -> None:
        super().__init__(training)
        self.admits = admits

    @override
    def log(self, fx: str, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if self.admits(name, fx):
            super().log(fx, name, value, *args, **kwargs)


def watch_results(trainer: Trainer, admits: Admits) -> None:
    """Let `admits` decide of every figure that is logged while a trainer fits, validates or tests."""
    epochs = trainer.fit_loop.epoch_loop
    epochs._results = WatchedResults(True, admits)
    for loop in (epochs.val_loop, trainer.validate_loop, trainer.test_loop):
        loop._results = WatchedResults(False, admits)
