"""Nothing that outlives a draw takes a value from it before the release: what a step changes is put back, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric

from dplit.errors import DplitError, PrivacyError
from dplit.grads.coupling.generators import independent_of_what_is_drawn, seed_all
from dplit.grads.coupling.lasting_state import Change, LastingState, picture, same_picture
from dplit.grads.coupling.trial import Trials
from dplit.grads.coupling.write_watch import WriteWatch, written_error
from dplit.protocols import datamodule_of

Alter = Callable[[Any], Any]
"""From a batch to one of equal shapes."""
Again = Callable[[Alter], None]
"""Runs the step on a physical batch that was altered."""


class StateGuard:
    """Watches what outlives a step: tensors, attributes, containers, metrics and generators of a module and its data module.

    After every physical batch all of it is as it was, so that neither a record nor the number of records drawn can reach the
    next one, or a checkpoint:

    * A write in place to a parameter, buffer or other tensor that stays is refused before it happens.
    * An attribute or container that got other entries gets the former ones back. If they are the same for other records of
      the same shapes, and a second run leaves them as they are, it is a cache, and training goes on. If not, the
      model would not be what it says, and it is refused.
    * A torchmetrics metric keeps what it counts, which is an exact figure that the privacy statement lists, unless it is one
      that checkpoints keep.
    * Random generators go on from numbers that were drawn before the draw.

    Args:
        module: the model.
        scratch: names (patterns as of `fnmatch`) of what may take any value in a step, and is put back without a word.

    Attributes:
        metrics: names of the metrics that `training_step` updated.
    """

    def __init__(self, module: LightningModule, scratch: Sequence[str] = ()) -> None:
        self.state = LastingState(module, datamodule=datamodule_of(module._trainer))
        self.scratch = tuple(scratch)
        self.metrics: dict[str, nn.Module] = {}
        self._module = module
        self._caches: set[str] = set()

    @property
    def trials(self) -> Trials:
        """Runs of the model that leave no trace."""
        return Trials(self._module, self.state, self._scratch_tensors())

    def trials_within(self) -> Trials:
        """Return trials for the inside of a physical batch: they keep what it changed so far."""
        state = LastingState(self._module, datamodule=datamodule_of(self._module._trainer))
        return Trials(self._module, state, self._scratch_tensors())

    @contextmanager
    def draw(self, judge_anew: bool = False) -> Iterator[None]:
        """Guard one draw; with `judge_anew` what passed as a cache before is looked at again."""
        if judge_anew:
            self._caches.clear()
        with independent_of_what_is_drawn(self.state.generators.values()):
            self.state.note()
            yield

    @contextmanager
    def physical_batch(self, again: Again) -> Iterator[None]:
        """Guard one physical batch.

        Args:
            again: runs the step on the same physical batch, altered; it is called within a trial.

        Raises:
            PrivacyError: something that stays was written, or took values of the records, or counts.
        """
        self.state.note()
        allowed = self._scratch_tensors()
        copies = {name: self.state.tensors[name].detach().clone() for name in allowed}
        watch = WriteWatch(self.state, allowed)
        changed: list[Change] = []
        try:
            with watch:
                yield
        finally:
            changed = self.state.changes()
            hidden = {*watch.exported_and_written(), *self.state.written()} - allowed
            self.state.put_back()
            self._write(copies)
        if hidden:
            raise written_error(min(hidden), "by code that torch functions do not show")
        self._check_metrics()
        self._judge([change for change in changed if not self._is_known(change.name)], again)

    def _check_metrics(self) -> None:
        """Note which metrics were updated.

        Raises:
            PrivacyError: checkpoints would keep one.
        """
        for name, metric in self.state.updated_metrics().items():
            if any(
                persistent
                for part in metric.modules()
                if isinstance(part, Metric)
                for persistent in part._persistent.values()
            ):
                raise PrivacyError(
                    f"{name} is a metric that training_step updates and that checkpoints keep, exact and without noise; call "
                    f"{name}.persistent(False)"
                )
            self.metrics[name] = metric

    def _judge(self, changes: Sequence[Change], again: Again) -> None:
        """Find out whether changed entries are caches, by runs on the same shapes.

        Raises:
            PrivacyError: they take values of the records, or change with every run, or would be trained.
        """
        if not changes:
            return
        trials = self.trials
        with trials.run():
            again(_unaltered)
            first = _pictures(changes)
            seed_all(0, self.state.generators.values())
            again(_unaltered)
            second = _pictures(changes)
            trained = [change.name for change in changes if _is_trained(change.value())]
        if trained:
            raise PrivacyError(
                f"training_step makes the parameter {trained[0]}, which no optimizer would step on; make it in __init__"
            )
        for alter in ALTERATIONS:
            self._compare(first, changes, trials, lambda alter=alter: again(alter))  # type: ignore[misc]
        for name in first:
            if not same_picture(first[name], second[name]):
                raise _refused(
                    name, "changes with every physical batch, so that it tells how many there were (a counter, perhaps)"
                )
        self._caches.update(first)

    def _compare(
        self, first: dict[str, object], changes: Sequence[Change], trials: Trials, run: Callable[[], None]
    ) -> None:
        with trials.run():
            try:
                run()
            except DplitError:
                raise
            except Exception:  # such values are none that the model takes
                return
            other = _pictures(changes)
        for name in first:
            if not same_picture(first[name], other[name]):
                raise _refused(name, "takes values of the records it sees")

    def _is_known(self, name: str) -> bool:
        return name in self._caches or any(fnmatchcase(name, pattern) for pattern in self.scratch)

    def _scratch_tensors(self) -> frozenset[str]:
        return frozenset(name for name in self.state.tensors if any(fnmatchcase(name, it) for it in self.scratch))

    def _write(self, copies: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, copy in copies.items():
                self.state.tensors[name].copy_(copy)


def _refused(name: str, why: str) -> PrivacyError:
    return PrivacyError(
        f"{name} is set by training_step and {why}; it would carry that out of the step without noise, and put back after every "
        "physical batch it would not do what it is for: keep running statistics, lists and counters out of training_step (log "
        "figures with self.log, count steps by global_step), or name it in DPStrategy(scratch=[...]) to have it put back"
    )


def _pictures(changes: Sequence[Change]) -> dict[str, object]:
    return {change.name: picture(change.value()) for change in changes}


def _is_trained(value: object) -> bool:
    made = value.parameters() if isinstance(value, nn.Module) else [value]
    return any(isinstance(p, nn.Parameter) and p.requires_grad for p in made)


def _unaltered(batch: Any) -> Any:
    return batch


def _alteration(of: Callable[[Tensor], Tensor]) -> Alter:
    return lambda batch: apply_to_collection(batch, Tensor, lambda t: of(t) if t.numel() else t, allow_frozen=True)


ALTERATIONS: tuple[Alter, ...] = (
    _alteration(lambda t: t.flatten()[:1].expand(t.numel()).reshape(t.shape).clone()),
    _alteration(lambda t: t.flatten()[-1:].expand(t.numel()).reshape(t.shape).clone()),
    _alteration(torch.zeros_like),
)
"""Other records of the same shapes, with values that a model takes: the first value of each tensor everywhere, the last, zero."""
