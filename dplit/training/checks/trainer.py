"""What a private fit refuses: settings that would make the stated (ε, δ) untrue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.model_helpers import is_overridden

from dplit.errors import PrivacyError
from dplit.training.checks.model import check_norms


def check_trainer(trainer: pl.Trainer, precision: Any) -> None:
    """Refuse trainer settings that merge, clip, scale or bypass releases."""
    module, overfit = trainer.lightning_module, getattr(trainer, "overfit_batches", 0)
    for bad, why in (
        (
            trainer.accumulate_grad_batches != 1,
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} would merge Poisson draws into one release; "
            "set DPStrategy(physical_batch_size=...) instead",
        ),
        (
            trainer.gradient_clip_val is not None,
            f"gradient_clip_val={trainer.gradient_clip_val} would clip the noisy sum, not the examples; "
            "set the bound of the clipping policy instead",
        ),
        (
            not module.automatic_optimization,
            "manual optimization would step on gradients the ledger does not see; set automatic_optimization = True",
        ),
        (
            isinstance(precision, MixedPrecision) and precision.scaler is not None,
            "precision=16-mixed scales losses, and with them the gradient norms; use bf16-mixed or 32-true",
        ),
        (
            bool(overfit),
            f"overfit_batches={overfit} replaces the sampler; set it to 0",
        ),
        (
            is_overridden("backward", module),
            f"{type(module).__name__}.backward would be bypassed by the private step; remove the override",
        ),
        (
            is_overridden("on_before_batch_transfer", module)
            or (trainer.datamodule is not None and is_overridden("on_before_batch_transfer", trainer.datamodule)),  # type: ignore[attr-defined]
            "on_before_batch_transfer would get a whole draw; use on_after_batch_transfer or the collate function",
        ),
    ):
        if bad:
            raise PrivacyError(why)
    check_norms(module)
    check_callbacks(trainer.callbacks)  # type: ignore[attr-defined]


SEARCHES = ("LearningRateFinder", "BatchSizeFinder", "_LRCallback")
"""Callbacks that take steps to choose a setting by exact losses of private records, then forget the steps."""


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Refuse callbacks that search with private steps, or merge draws."""
    names = {cls.__name__ for callback in callbacks for cls in type(callback).__mro__}
    for name in names & {*SEARCHES}:
        raise PrivacyError(f"{name} chooses a setting by exact losses of private records; choose it on public data")
    if "GradientAccumulationScheduler" in names:
        raise PrivacyError("GradientAccumulationScheduler would merge Poisson draws; set physical_batch_size instead")


def check_counts(callbacks: Iterable[Any], unit: Any) -> None:
    """Refuse noisy counts of records, charged for one record, where the statement is about persons."""
    for callback in callbacks:
        if unit is not None and getattr(callback, "release", None) == "noisy":
            raise PrivacyError(
                f"{type(callback).__name__}(release='noisy') charges for one record, but with unit={unit!r} a person may "
                "have several in the split; set release='flagged', or 'public' where the split is"
            )
