"""A logger that keeps in memory whatever reaches it, by which road it may be."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import Logger


class Writer:
    """What a logger's `experiment` is like: methods, nested objects, items."""

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept
        self.summary: dict[str, Any] = {}

    @property
    def nested(self) -> Writer:
        return self

    def add_scalar(self, name: str, value: float, step: int = 0) -> None:
        self.kept.append({name: value})

    def __getitem__(self, key: str) -> Writer:
        return self

    def __setitem__(self, key: str, value: float) -> None:
        self.kept.append({key: value})


class Notebook(Logger):
    """Lightning's logger in its smallest form; `log_dir` and `save` are as those of any other."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Any]] = []
        self.writer = Writer(self.kept)

    name, version, log_dir = "notebook", 0, None

    @property
    def experiment(self) -> Writer:
        return self.writer

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.kept.append(dict(params))

    def draw(self, name: str, value: float) -> None:
        """A method of the logger's own."""
        self.kept.append({name: value})

    @property
    def names(self) -> set[str]:
        return {name for entry in self.kept for name in entry}


ROADS = {
    "log_metrics": lambda logger, name, value: logger.log_metrics({name: value}, step=3),
    "named": lambda logger, name, value: logger.log_metrics(metrics={name: value}),
    "log_hyperparams": lambda logger, name, value: logger.log_hyperparams({name: value}),
    "own_method": lambda logger, name, value: logger.draw(name, value),
    "experiment": lambda logger, name, value: logger.experiment.add_scalar(name, value, 3),
    "experiment_named": lambda logger, name, value: logger.experiment.add_scalar(name=name, value=value),
    "nested": lambda logger, name, value: logger.experiment.nested.nested.add_scalar(name, value),
    "item": lambda logger, name, value: logger.experiment["folder"].add_scalar(name, value),
    "set_item": lambda logger, name, value: logger.experiment.__setitem__(name, value),
    "set_attribute": lambda logger, name, value: setattr(logger.experiment, name, value),
}
"""Ways in which a step can hand a figure to a logger past Lightning."""


def reached(logger: Notebook, name: str) -> bool:
    """Whether a figure of this name is anywhere in the logger."""
    return name in logger.names or name in vars(logger.writer)
