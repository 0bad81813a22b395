"""How a split's counts leave the run: across ranks, with noise where declared, and never twice for one record."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from dplit.errors import ConfigurationError, PrivacyError
from dplit.fairness.metrics.counts import Counts


class Spent(Protocol):
    """What a strategy says it has spent: the upper bound ε at δ, and per group where that is valid."""

    @property
    def epsilon(self) -> float: ...  # noqa: D102
    @property
    def delta(self) -> float: ...  # noqa: D102
    @property
    def by_group(self) -> dict[str, float] | None: ...  # noqa: D102


def spent(trainer: Trainer) -> Spent | None:
    """Ask the strategy what was spent so far; None for a run that is not private."""
    ask = getattr(trainer.strategy, "spent", None)
    found: Spent | None = ask() if callable(ask) else None
    return found


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
    """Release the counts through the strategy, which charges them and adds noise of std `noise_multiplier` a cell.

    One record moves one cell by one, so the sensitivity is 1. Every rank must call, with the same counts, and
    every rank gets rank 0's answer. Losses have no bound and are left out, and perplexities with them.
    """
    release = trainer.strategy.release_statistic  # type: ignore[attr-defined]
    exact = counts.cells.to(torch.float64)
    answer = release(exact, sensitivity=1.0, noise_multiplier=noise_multiplier, split=split)
    answer = trainer.strategy.broadcast(answer, src=0) if trainer.world_size > 1 else answer
    return counts.with_noisy_cells(answer, noise_multiplier)


def check_noisy(trainer: Trainer, noise_multiplier: float) -> None:
    """Refuse a noisy release without noise, or with a strategy that cannot make one.

    Raises:
        ConfigurationError: `noise_multiplier` is not positive and finite, or there is no `release_statistic`.

    """
    if not 0 < noise_multiplier < math.inf:
        raise ConfigurationError(f"noise_multiplier={noise_multiplier} must be positive and finite for noisy counts")
    if not callable(getattr(trainer.strategy, "release_statistic", None)):
        raise ConfigurationError(
            f'release="noisy" needs a strategy that charges counts, {type(trainer.strategy).__name__} has no '
            'release_statistic; train with dplit.DPStrategy or set release="flagged"'
        )


def check_once_each(trainer: Trainer) -> None:
    """Refuse an evaluation in which one record could be counted twice, or push another one in or out.

    Then the counts' sensitivity would not be the 1 that is charged.

    Raises:
        PrivacyError: batches are limited or dropped, or the sampler is not known to give each record once.

    """
    limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    if not (isinstance(limit, float) and limit == 1.0):
        raise PrivacyError(
            f"a limit of {limit} evaluation batches lets one record push out another, which noisy counts do not "
            'charge; evaluate on all batches or set release="flagged"'
        )
    for loader in loaders(trainer):
        _check_loader(loader)


def loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders of the running evaluation, in the order of `dataloader_idx`.

    Raises:
        PrivacyError: they are not run one after the other, so that a short one may be repeated.

    """
    # trainer.val_dataloaders is fit's even while trainer.validate runs another loader, hence the loop's own
    combined = trainer._evaluation_loop._combined_loader
    if combined is None or combined._mode != "sequential":
        raise PrivacyError(
            'noisy counts need loaders that run one after the other; use CombinedLoader(.., "sequential")'
        )
    return list(combined.flattened)


def _check_loader(loader: Any) -> None:
    reason = _repeats(loader)
    if reason:
        raise PrivacyError(
            f"{reason}, so that one record could move more than the one count that is charged; evaluate with "
            'DataLoader(.., shuffle=False, drop_last=False) or set release="flagged"'
        )


def _repeats(loader: Any) -> str:
    if not isinstance(loader, DataLoader):
        return f"the evaluation loader is a {type(loader).__name__}"
    if loader.drop_last or getattr(loader.batch_sampler, "drop_last", False):
        return "the evaluation loader drops its last batch"
    if loader.batch_sampler is not None and not isinstance(loader.batch_sampler, BatchSampler):
        return f"the evaluation batches come from a {type(loader.batch_sampler).__name__}"
    return "" if _each_once(loader.sampler) else f"the evaluation sampler is a {type(loader.sampler).__name__}"


def _each_once(sampler: Any) -> bool:
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return isinstance(sampler, SequentialSampler | UnrepeatedDistributedSampler)


def check_no_more(trainer: Trainer, loader: int, counts: Counts) -> None:
    """Refuse counts of more examples than the loader's data set has records.

    Raises:
        PrivacyError: a record was counted more than once, as with several views of each.

    """
    counted, records = int(counts.cells.sum()), len(loaders(trainer)[loader].dataset)
    if counted > records:
        raise PrivacyError(
            "more examples were counted than the split has records, so noisy counts would be charged too little; "
            'return one prediction a record or set release="flagged"'
        )
