"""Poisson draws from a person's own DataLoader, handed out as physical batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from dplit.errors import ConfigurationError, PrivacyError
from dplit.protocols import WrappedDataset, fetch_samples
from dplit.sampling.draws import PhysicalBatch, PhysicalCollate
from dplit.sampling.poisson import PoissonBatches, Strata
from dplit.sampling.strata import _all
from dplit.sampling.units import People, first_rows, members, unit_ids


class _Records(WrappedDataset):
    """A data set that is fetched by lists, asked for no records, too."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return fetch_samples(self.dataset, indices)


def poisson_loader(
    loader: Any,
    physical_batch_size: int,
    stratify: Callable[[float, DataLoader[Any]], Strata | None] | None = None,
    unit: Callable[[Any], Sequence[Any]] | None = None,
) -> DataLoader[Any]:
    """Return a loader that gives Poisson draws where the given one gave batches.

    The rate is batch_size/N for N records, or N persons where persons are drawn, and a pass has as many draws as N has
    batches. The loader's own collate function is called for each physical batch. Where the data set has `lengths`, one
    number for each record, such as its tokens, a draw is cut into physical batches by length, so that little is padded.

    Args:
        loader: the person's own.
        physical_batch_size: most rows to collate at one time.
        stratify: from the rate and a loader to parts with rates of their own, or None.
        unit: from a batch to who each of its rows belongs to: persons are drawn, with all their records. Reads every
            record once.

    Raises:
        ConfigurationError: something that is not a map-style DataLoader with a batch size of at most N.
        PrivacyError: a sampler that is not uniform, for which no rate would be true.
    """
    _check(loader)
    dataset = loader.dataset
    if hasattr(dataset, "__getitems__") and not isinstance(dataset, WrappedDataset):
        dataset = _Records(dataset)
    poisson = _drawing(loader, dataset, physical_batch_size)
    if unit is not None:
        who = [one for part in _all(poisson) for one in _owners(part, unit)]
        dataset = People(dataset, members(who), list(dict.fromkeys(who)))
        _check_size(loader, dataset, "persons")
        poisson = _drawing(loader, dataset, physical_batch_size)
    found = stratify(loader.batch_size / len(dataset), poisson) if stratify else None
    return poisson if found is None else _drawing(loader, dataset, physical_batch_size, found)


def _drawing(loader: Any, dataset: Any, most: int, strata: Strata | None = None) -> DataLoader[Any]:
    size = len(dataset)
    rate = loader.batch_size / size
    draws = size // loader.batch_size + _rest(loader, size)
    sampler = PoissonBatches(size, rate, draws, strata=strata, lengths=_lengths(dataset))
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=PhysicalCollate(loader.collate_fn, most, rate, size, shared=loader.num_workers > 0),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def _lengths(dataset: Any) -> NDArray[np.float64] | None:
    """Return how long each sample of a data set is, a person's by the longest record; None where it does not say."""
    if isinstance(dataset, WrappedDataset | Subset):
        inner = _lengths(dataset.dataset)
        if inner is None or not isinstance(dataset, People | Subset):
            return inner
        own = dataset.indices if isinstance(dataset, Subset) else dataset.members
        return np.array([inner[part].max() for part in own])
    try:
        found = np.asarray(getattr(dataset, "lengths", None), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return found if found.shape == (len(dataset),) and np.isfinite(found).all() else None


def _rest(loader: Any, size: int) -> bool:
    return size % loader.batch_size > 0 and not loader.drop_last


def _owners(part: PhysicalBatch, unit: Callable[[Any], Sequence[Any]]) -> list[Any]:
    """Return who each record of a physical batch belongs to, read off the first of its rows."""
    found = unit(part.batch)
    if len(found) != part.rows:
        raise ConfigurationError(f"{len(found)} units were given for {part.rows} rows; give one for each row")
    if part.owner is None:
        return list(found)
    owners = [found[int(first)] for first in first_rows(part.owner)]
    if [owners[int(i)] for i in part.owner] != list(found):
        raise ConfigurationError("a copy of a record says that it is another person's; keep whose it is in the copies")
    return owners


def check_owners(part: PhysicalBatch, key: Any) -> None:
    """Refuse a batch whose rows are not those of the persons that were drawn for it, by the entry that says whose they are.

    Raises:
        PrivacyError: the collate function changed their order, or the data set gives other records than before.
    """
    if part.who is None or part.owner is None:
        return
    if [part.who[int(i)] for i in part.owner] != unit_ids(part.batch, key):
        raise PrivacyError(
            "the records drawn for a person came back as another's, so persons would be mixed inside one clip; keep "
            "which record an index gives through a fit, and the order of records in the collate function"
        )


def _check(loader: Any) -> None:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        what = type(loader.dataset if isinstance(loader, DataLoader) else loader).__name__
        raise ConfigurationError(f"Poisson sampling needs a DataLoader over a map-style data set, got {what}")
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise PrivacyError(
            f"batch sampler {type(loader.batch_sampler).__name__} is not the ledger's; give the DataLoader a batch_size"
        )
    sampler, size = loader.sampler, len(loader.dataset)  # type: ignore[arg-type]
    uniform = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == size
    )
    if not uniform:
        raise PrivacyError(
            f"{type(sampler).__name__} does not draw records uniformly, so the ledger's rate would be untrue; "
            "use shuffle=True (for rates by group, a policy that charges them)"
        )
    _check_size(loader, loader.dataset, "records")


def _check_size(loader: Any, dataset: Any, what: str) -> None:
    if loader.batch_size > len(dataset):
        raise ConfigurationError(f"batch_size={loader.batch_size} is larger than the data set's {len(dataset)} {what}")
