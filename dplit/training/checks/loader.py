"""What a private fit refuses of the train loader and its draws."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from dplit.errors import PrivacyError
from dplit.sampling.draws import Draw, PhysicalCollate
from dplit.sampling.poisson import PoissonBatches


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
