"""What a private fit refuses: settings that would make the stated (ε, δ) untrue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dplit.data.sampling import Draw, PhysicalCollate, PoissonBatches
from dplit.errors import ConfigurationError, JournalError, PrivacyError
from dplit.privacy import Ledger, Target


def check_arguments(noise: Any, loss_reduction: Any, delta: Any, grads: Any) -> None:
    """Refuse arguments of DPStrategy that are out of range."""
    number = isinstance(noise, int | float) and not isinstance(noise, bool)
    if not isinstance(noise, Target) and not (number and 0 < noise < float("inf")):
        raise ConfigurationError(f"noise={noise!r} must be a Target(epsilon, delta) or a noise multiplier above 0")
    if loss_reduction not in (None, "mean", "sum"):
        raise ConfigurationError(f"loss_reduction={loss_reduction!r} must be None, 'mean' or 'sum'")
    if grads not in ("tape", "vmap", "loop"):
        raise ConfigurationError(f"grads={grads!r} must be 'tape', 'vmap' or 'loop'")
    if delta is not None and not 0 < delta < 1:
        raise ConfigurationError(f"delta={delta!r} must lie between 0 and 1")


def warn_of_delta(delta: float | None, records: int) -> None:
    """Warn of a δ that lets a record be released outright."""
    if delta is not None and delta >= 1 / records:
        rank_zero_warn(
            f"delta={delta:g} is not below 1/{records}, one over the number of records: releasing a record outright "
            "would meet it; choose a smaller delta"
        )


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


def check_norms(module: nn.Module) -> None:
    """Refuse batch normalisation by name, trainable or not."""
    for name, layer in module.named_modules():
        if getattr(layer, "track_running_stats", False) and not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise PrivacyError(
                f"{name} keeps running statistics of the data, without noise; set track_running_stats=False"
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.affine):
            raise PrivacyError(
                f"{name} is a {type(layer).__name__}, which mixes the examples of a batch; use GroupNorm or LayerNorm"
            )


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


def check_draw(draw: Draw, rate: float, records: int | None, trainer: pl.Trainer) -> None:
    """Refuse a draw that was not made as the ledger charges it."""
    if draw.rate != rate or draw.records != records:
        raise PrivacyError(
            f"the train loader was reloaded and now draws {draw.records} records at rate {draw.rate:g}, but the ledger "
            f"charges {records} at {rate:g}; keep data set and batch size through a fit"
        )
    if trainer.accumulate_grad_batches != 1:
        raise PrivacyError(
            f"accumulate_grad_batches became {trainer.accumulate_grad_batches} during the fit, which merges Poisson draws; "
            "set physical_batch_size instead"
        )


_CHARGED: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Which ledger each module, and each policy that learns, was used under in this process."""


def check_ledger(module: nn.Module | None, policy: Any, ledger: Ledger, unit: str | None) -> None:
    """Refuse to go on with a model or thresholds under a ledger that does not know what was spent on them before.

    Or with a ledger whose steps were charged for another unit.
    """
    check_unit(ledger, unit)
    if module is not None and _CHARGED.setdefault(module, ledger.run_id) != ledger.run_id:
        raise PrivacyError(
            "this model was trained under another ledger, whose spending this one would not count; pass "
            "DPStrategy(ledger=first.ledger), or resume with ckpt_path"
        )
    if policy.queries and _CHARGED.setdefault(policy, ledger.run_id) != ledger.run_id:
        raise PrivacyError(
            f"this {type(policy).__name__} learnt its thresholds under another ledger, whose spending this one would not "
            "count; give each strategy a policy of its own, or pass DPStrategy(ledger=first.ledger)"
        )


_UNITS: dict[str, str | None] = {}
"""What the train steps of each ledger are charged for, by run: the key that says whose a record is, or None for records."""


def remember_unit(ledger: Ledger, unit: str | None) -> None:
    """Keep what a ledger's steps so far were charged for."""
    _UNITS.setdefault(ledger.run_id, unit)


def check_unit(ledger: Ledger, unit: str | None) -> None:
    """Refuse to add steps for persons to a ledger of steps for records, and the other way around.

    Neither bounds the other: a person holds several records, and a record less changes a person's mean by up to twice the
    bound.
    """
    remember_unit(ledger, None if ledger.entries.get("train") else unit)
    if _UNITS[ledger.run_id] != unit:
        raise PrivacyError(
            f"the ledger's steps so far were taken with unit={_UNITS[ledger.run_id]!r}, so with unit={unit!r} no statement "
            "would hold for all of them; keep the unit, or train a new model"
        )


def restorable(checkpoint: Mapping[str, Any], path: Any) -> Mapping[str, Any]:
    """Return what a checkpoint kept of its private fit.

    Raises:
        JournalError: it kept no ledger, or what it kept cannot be one.
    """
    kept = checkpoint.get("dplit")
    needed: dict[str, type] = {"ledger": Mapping, "journal": str, "policy_name": str, "policy": Mapping}
    whole = isinstance(kept, Mapping) and all(isinstance(kept.get(key), kind) for key, kind in needed.items())
    noise = kept.get("noise_multiplier") if isinstance(kept, Mapping) else None
    whole = whole and isinstance(kept.get("unit"), str | None)  # type: ignore[union-attr]
    if not whole or not isinstance(noise, int | float) or isinstance(noise, bool) or not 0 < noise < 1e7:
        raise JournalError(
            f"checkpoint {path} has no privacy ledger that can be read, so what it has spent is unknown; resume from a "
            "checkpoint written under DPStrategy, or load its weights into a new model"
        )
    return kept  # type: ignore[return-value]


def check_policy(saved: str, policy: Any) -> None:
    """Refuse to give one policy's thresholds to another."""
    if saved != type(policy).__name__:
        raise ConfigurationError(
            f"the checkpoint was trained with {saved}, not {type(policy).__name__}; resume with it"
        )


def check_optimizers(optimizers: list[Optimizer], module: nn.Module | None) -> None:
    """Refuse several optimizers, and parameters that the private step does not reach."""
    if len(optimizers) != 1:
        raise PrivacyError(f"{len(optimizers)} optimizers: a private step serves one; use parameter groups instead")
    if module is not None and not any(p.requires_grad for p in module.parameters()):
        raise ConfigurationError("every parameter is frozen, so there is nothing to train; unfreeze some")
    hooked = [n for n, p in _named(module) if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)]
    if hooked:
        raise PrivacyError(f"{hooked[0]} has a gradient hook, which a private step would not call; remove it")
    known = {id(p) for p in (module.parameters() if module is not None else ())}
    if any(id(p) not in known for p in _stepped(optimizers)):
        raise PrivacyError("the optimizer steps on parameters outside the LightningModule; make them part of it")


def poisson_train_loader(trainer: pl.Trainer) -> DataLoader[Any]:
    """Return the one train loader, which must be ours.

    Raises:
        PrivacyError: there are several, or the trainer put another sampler in place.
    """
    loaders = trainer.fit_loop._combined_loader.flattened if trainer.fit_loop._combined_loader else []
    if len(loaders) != 1:
        raise PrivacyError(f"{len(loaders)} train loaders: a private step draws from one; concatenate the data sets")
    loader: DataLoader[Any] = loaders[0]
    ours = isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, PoissonBatches)
    if not (ours and isinstance(loader.collate_fn, PhysicalCollate)):
        raise PrivacyError(
            f"the train loader's sampler is {type(getattr(loader, 'batch_sampler', loader)).__name__}, not the ledger's "
            "Poisson draws; something replaced it after DPStrategy set it"
        )
    return loader


def losses_per_example(loss: Any, size: int, reduction: Literal["mean", "sum"] | None) -> Tensor:
    """Return `(n,)` losses, or the sum a declared reduction stands for."""
    if not isinstance(loss, Tensor):
        raise PrivacyError(
            f"training_step returned {type(loss).__name__}; return losses per example, shape (n,), as a tensor or under 'loss'"
        )
    if loss.shape == (size,):
        return loss
    if loss.dim() == 0 and reduction is not None:
        return loss * size if reduction == "mean" else loss
    if loss.numel() == 1 and loss.dim() == 0:
        raise ConfigurationError(
            "training_step returned a scalar; return losses per example, shape (n,), or say what the scalar is with "
            "DPStrategy(loss_reduction='mean')"
        )
    raise ConfigurationError(
        f"training_step returned a loss of shape {tuple(loss.shape)} for {size} examples; it must be ({size},)"
    )


def _named(module: nn.Module | None) -> Iterable[tuple[str, nn.Parameter]]:
    return () if module is None else module.named_parameters()


def _stepped(optimizers: list[Optimizer]) -> Iterable[Tensor]:
    return (p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
