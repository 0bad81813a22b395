"""What a private fit refuses of the trainer: settings and callbacks that would make the stated (ε, δ) untrue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.model_helpers import is_overridden

from dplit.errors import PrivacyError
from dplit.groups import GroupKey
from dplit.protocols import callbacks_of, datamodule_of
from dplit.sampling.draws import Draw

SEARCHES = ("LearningRateFinder", "BatchSizeFinder", "_LRCallback")
"""Callbacks that take steps to choose a setting by exact losses of private records, then forget the steps."""


def check_trainer(trainer: Trainer, precision: Precision) -> None:
    """Refuse trainer settings that merge, clip, scale or bypass releases, and callbacks that do.

    Raises:
        PrivacyError: naming the setting and what to set instead.
    """
    for reason in _objections(trainer, precision):
        raise PrivacyError(reason)
    check_callbacks(callbacks_of(trainer))


def _objections(trainer: Trainer, precision: Precision) -> Iterator[str]:
    module, data = trainer.lightning_module, datamodule_of(trainer)
    overfit: float = getattr(trainer, "overfit_batches", 0)
    if trainer.accumulate_grad_batches != 1:
        yield (
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} would merge Poisson draws into one release; "
            "set DPStrategy(physical_batch_size=...) instead"
        )
    if trainer.gradient_clip_val is not None:
        yield (
            f"gradient_clip_val={trainer.gradient_clip_val} would clip the noisy sum, not the examples; "
            "set the bound of the clipping policy instead"
        )
    if not module.automatic_optimization:
        yield "manual optimization would step on gradients the ledger does not see; set automatic_optimization = True"
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        yield "precision=16-mixed scales losses, and with them the gradient norms; use bf16-mixed or 32-true"
    if overfit:
        yield f"overfit_batches={overfit} replaces the sampler; set it to 0"
    if is_overridden("backward", module):
        yield f"{type(module).__name__}.backward would be bypassed by the private step; remove the override"
    if is_overridden("on_before_batch_transfer", module) or (
        data is not None and is_overridden("on_before_batch_transfer", data)
    ):
        yield "on_before_batch_transfer would get a whole draw; use on_after_batch_transfer or the collate function"


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Refuse callbacks that search with private steps, or merge draws.

    Raises:
        PrivacyError: naming the callback.
    """
    names = {cls.__name__ for callback in callbacks for cls in type(callback).__mro__}
    for name in names & {*SEARCHES}:
        raise PrivacyError(f"{name} chooses a setting by exact losses of private records; choose it on public data")
    if "GradientAccumulationScheduler" in names:
        raise PrivacyError("GradientAccumulationScheduler would merge Poisson draws; set physical_batch_size instead")


def check_throughput(callbacks: Iterable[Callback], draw: Draw) -> None:
    """Refuse, before anything is charged, a `ThroughputMonitor` that would read the size of each draw and log it.

    Args:
        callbacks: of the trainer.
        draw: one of no records, as its functions will get draws.

    Raises:
        PrivacyError: it reads the draw; the message says what it may be given.
    """
    for callback in callbacks:
        if isinstance(callback, ThroughputMonitor):
            for read in (callback.batch_size_fn, callback.length_fn):
                _ = None if read is None else read(draw)


def check_counts(callbacks: Iterable[Callback], unit: GroupKey | None) -> None:
    """Refuse noisy counts of records, charged for one record, where the statement is about persons.

    Raises:
        PrivacyError: naming the callback.
    """
    for callback in callbacks:
        if unit is not None and getattr(callback, "release", None) == "noisy":
            raise PrivacyError(
                f"{type(callback).__name__}(release='noisy') charges for one record, but with unit={unit!r} a person may "
                "have several in the split; set release='flagged', or 'public' where the split is"
            )
