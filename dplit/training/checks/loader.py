"""What a private fit refuses of the train loader and its draws."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from dplit.errors import PrivacyError
from dplit.sampling.draws import PhysicalCollate
from dplit.sampling.poisson import PoissonBatches


class TrainLoader(NamedTuple):
    """The train loader of a private fit, with the parts that make its draws."""

    loader: DataLoader[Any]
    sampler: PoissonBatches
    collate: PhysicalCollate


def poisson_train_loader(trainer: Trainer) -> TrainLoader:
    """Return the one train loader, which must draw as the ledger charges.

    Raises:
        PrivacyError: there are several, or one inside a collection, or the trainer put another sampler in place.
    """
    combined = trainer.fit_loop._combined_loader
    loaders = combined.flattened if combined else []
    if len(loaders) != 1:
        raise PrivacyError(f"{len(loaders)} train loaders: a private step draws from one; concatenate the data sets")
    loader = loaders[0]
    if isinstance(whole := getattr(combined, "iterables", None), list | tuple | dict):
        raise PrivacyError(
            f"the train loader is given in a {type(whole).__name__}, whose batches are no draws; pass the DataLoader itself, "
            "and take its batch in training_step"
        )
    if isinstance(loader, DataLoader):
        sampler, collate = loader.batch_sampler, loader.collate_fn
        if isinstance(sampler, PoissonBatches) and isinstance(collate, PhysicalCollate):
            return TrainLoader(loader, sampler, collate)
    raise PrivacyError(
        f"the train loader's sampler is {type(getattr(loader, 'batch_sampler', loader)).__name__}, not the ledger's "
        "Poisson draws; something replaced it after DPStrategy set it"
    )
