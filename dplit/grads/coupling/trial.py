"""Trial runs of a model that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from torch import Tensor, nn

from dplit.grads.coupling.generators import seeded
from dplit.grads.coupling.lasting_state import LastingState
from dplit.grads.coupling.write_watch import WriteWatch, written_error


class Trials:
    """Runs of a model with given seeds, after each of which everything is as it was.

    Attributes, containers, metrics and random generators are put back, what is logged is dropped, and a write to a tensor that
    stays is refused before it happens, so that nothing of the model has to be copied.

    Args:
        module: the model.
        state: what outlives its steps, if that was looked for already.
    """

    def __init__(
        self, module: nn.Module, state: LastingState | None = None, allowed: frozenset[str] = frozenset()
    ) -> None:
        self.module = module
        self.state = state or LastingState(module)
        self.allowed = allowed

    @contextmanager
    def run(self, seed: int = 0) -> Iterator[None]:
        """Run what is inside as a trial.

        Raises:
            PrivacyError: a tensor that stays was written.
        """
        self.state.note()
        metrics = [(part, _contents(part)) for metric in self.state.metrics.values() for part in metric.modules()]
        scratch = {name: self.state.tensors[name].detach().clone() for name in self.allowed & self.state.tensors.keys()}
        watch = WriteWatch(self.state, self.allowed)
        try:
            with (
                seeded(seed, self.state.generators.values()),
                torch.compiler.set_stance("force_eager"),
                _nothing_logged(self.module),
                watch,
            ):
                yield
        finally:
            written = [*watch.exported_and_written(), *self.state.written()]
            self.state.put_back()
            self._put_back(metrics, scratch)
        for name in written:
            if name not in self.allowed:
                raise written_error(name, "by code that torch functions do not show")

    def _put_back(self, metrics: list[tuple[nn.Module, dict[str, object]]], scratch: dict[str, Tensor]) -> None:
        for part, before in metrics:
            vars(part).clear()
            vars(part).update(before)
        with torch.no_grad():
            for name, copy in scratch.items():
                self.state.tensors[name].copy_(copy)


@contextmanager
def undisturbed(module: nn.Module, trials: Trials | None = None) -> Iterator[None]:
    """Put back, afterwards, what trial computations change: attributes, containers, metrics, random generators, figures.

    Args:
        module: the model.
        trials: of the model, where they know what may be written; new ones if None.

    Raises:
        PrivacyError: a tensor that stays when a step is over was written.
    """
    with (trials or Trials(module)).run():
        yield


def _contents(part: nn.Module) -> dict[str, object]:
    """Return the attributes of a metric, with its tensors and containers copied."""
    return {name: _copied(value) for name, value in vars(part).items()}


def _copied(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list):
        return [_copied(entry) for entry in value]
    return {key: _copied(entry) for key, entry in value.items()} if type(value) is dict else value


@contextmanager
def _nothing_logged(module: nn.Module) -> Iterator[None]:
    """Give what is logged meanwhile a place of its own, and drop it."""
    trainer = module._trainer if isinstance(module, LightningModule) else None
    if trainer is None or trainer._results is None or not trainer.training:
        yield
        return
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    results, function = loop._results, connector._current_fx
    loop._results = _ResultCollection(training=True)
    try:
        yield
    finally:
        loop._results, connector._current_fx = results, function
