"""How a split's counts leave the run: across ranks, with noise where declared, and never twice for one record."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from dplit.errors import ConfigurationError, PrivacyError
from dplit.fairness.metrics.counts import Counts
from dplit.protocols import Spent, private_strategy, watchers_of


def spent(trainer: Trainer) -> Spent | None:
    """Return what the strategy has spent so far; None for a run that is not private."""
    strategy = private_strategy(trainer)
    return None if strategy is None else strategy.spent()


def callbacks(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of a trainer."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def watchers(trainer: Trainer, prefix: str) -> list[str]:
    """Name the callbacks and learning rate schedulers that watch a logged figure whose name starts with `prefix`."""
    return [str(watcher) for watcher in watchers_of(trainer) if watcher.name.startswith(prefix)]


def across_ranks(trainer: Trainer, counts: Counts) -> Counts:
    """Add up the counts of all ranks; every rank must call, and every rank gets the sum."""
    if trainer.world_size == 1:
        return counts
    wide = counts.widened(int(_reduced(trainer, torch.tensor(counts.classes), "max")))
    return wide.mapped(lambda sums: _reduced(trainer, sums, "sum"))


def _reduced(trainer: Trainer, value: Tensor, how: str) -> Tensor:
    moved = value.clone().to(trainer.strategy.root_device)
    result = trainer.strategy.reduce(moved, reduce_op=how)
    return torch.as_tensor(result).cpu()


def noised(trainer: Trainer, counts: Counts, noise_multiplier: float, split: str) -> Counts:
    """Release the counts through the strategy, which charges them and adds noise of std `noise_multiplier` to each cell.

    One record moves one cell by one, so the sensitivity is 1. Every rank must call, with the same counts, and every rank
    gets the answer of rank 0. A loss has no bound that noise could cover, so losses and perplexities are left out.

    Args:
        trainer: its strategy trains privately, as `check_noisy` has found.
        counts: exact, of all ranks.
        noise_multiplier: standard deviation of the noise in a cell, in examples.
        split: what the strategy charges the answer to.
    """
    strategy = private_strategy(trainer)
    assert strategy is not None
    exact = counts.table.to(torch.float64)
    answer = strategy.release_statistic(exact, sensitivity=1.0, noise_multiplier=noise_multiplier, split=split)
    if trainer.world_size > 1:
        answer = trainer.strategy.broadcast(answer, src=0)
    return counts.with_noisy_cells(answer[..., :-1], noise_multiplier, answer[..., -1])


def check_noisy(trainer: Trainer, noise_multiplier: float) -> None:
    """Refuse a noisy release without noise, or with a strategy that cannot make one.

    Raises:
        ConfigurationError: `noise_multiplier` is not positive and finite, or the strategy does not train privately.

    """
    if not 0 < noise_multiplier < math.inf:
        raise ConfigurationError(f"noise_multiplier={noise_multiplier} must be positive and finite for noisy counts")
    if private_strategy(trainer) is None:
        raise ConfigurationError(
            f'release="noisy" needs a strategy that charges counts, {type(trainer.strategy).__name__} has no '
            'release_statistic; train with dplit.DPStrategy or set release="flagged"'
        )


def check_each_record_once(trainer: Trainer) -> None:
    """Refuse an evaluation in which one record could be counted twice, or could push another one in or out.

    In such an evaluation the sensitivity of the counts would be larger than the 1 that is charged.

    Raises:
        PrivacyError: batches are limited or dropped, or the sampler is not known to give each record once.

    """
    limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    if not (isinstance(limit, float) and limit == 1.0):
        raise PrivacyError(
            f"a limit of {limit} evaluation batches lets one record push out another, which noisy counts do not "
            'charge; evaluate on all batches or set release="flagged"'
        )
    for loader in evaluation_loaders(trainer):
        _check_loader(loader)


def evaluation_loaders(trainer: Trainer) -> list[object]:
    """Return the loaders of the running evaluation, in the order of `dataloader_idx`.

    Raises:
        PrivacyError: the loaders do not run one after the other, so that a short one may be repeated.

    """
    # While trainer.validate runs another loader, trainer.val_dataloaders is still that of fit: ask the loop.
    combined = trainer._evaluation_loop._combined_loader
    if combined is None or combined._mode != "sequential":
        raise PrivacyError(
            'noisy counts need loaders that run one after the other; use CombinedLoader(.., "sequential")'
        )
    return list(combined.flattened)


def _check_loader(loader: object) -> None:
    reason = _why_not_once(loader)
    if reason:
        raise PrivacyError(
            f"{reason}, so that one record could move more than the one count that is charged; evaluate with "
            'DataLoader(.., shuffle=False, drop_last=False) or set release="flagged"'
        )


def _why_not_once(loader: object) -> str:
    """Say why a loader might not give each record exactly once; "" if it does."""
    if not isinstance(loader, DataLoader):
        return f"the evaluation loader is a {type(loader).__name__}"
    if loader.drop_last or getattr(loader.batch_sampler, "drop_last", False):
        return "the evaluation loader drops its last batch"
    if loader.batch_sampler is not None and not isinstance(loader.batch_sampler, BatchSampler):
        return f"the evaluation batches come from a {type(loader.batch_sampler).__name__}"
    return "" if _gives_each_once(loader.sampler) else f"the evaluation sampler is a {type(loader.sampler).__name__}"


def _gives_each_once(sampler: object) -> bool:
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return isinstance(sampler, SequentialSampler | UnrepeatedDistributedSampler)


def check_no_more_than_records(trainer: Trainer, loader: int, counts: Counts) -> None:
    """Refuse counts of more examples than the loader's data set has records.

    Args:
        trainer: of an evaluation that `check_each_record_once` let pass.
        loader: `dataloader_idx`.
        counts: exact, of all ranks.

    Raises:
        PrivacyError: a record was counted more than once, as with several views of each.

    """
    evaluated = evaluation_loaders(trainer)[loader]
    assert isinstance(evaluated, DataLoader)
    if int(counts.table.sum()) > len(cast(Sized, evaluated.dataset)):
        raise PrivacyError(
            "more examples were counted than the split has records, so noisy counts would be charged too little; "
            'return one prediction a record or set release="flagged"'
        )
