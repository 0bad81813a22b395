"""Poisson draws from a user's own DataLoader, handed out as physical batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset

from dplit.errors import ConfigurationError, PrivacyError
from dplit.protocols import WrappedDataset, fetch_samples
from dplit.sampling.draws import PhysicalBatch, PhysicalCollate
from dplit.sampling.poisson import PoissonBatches, Strata
from dplit.sampling.repeats import check_repeats
from dplit.sampling.samplers import drawn_records
from dplit.sampling.strata import batches_of_all_records
from dplit.sampling.units import People, UnitKey, first_rows, members, unit_ids


class _Fetched(WrappedDataset):
    """A data set that is fetched by lists, where the empty list gives no records."""

    def __init__(self, dataset: Dataset[object]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return fetch_samples(self.dataset, indices)


def poisson_loader(
    loader: object,
    physical_batch_size: int,
    stratify: Callable[[float, DataLoader[object]], Strata | None] | None = None,
    unit: Callable[[Any], Sequence[Hashable]] | None = None,
) -> DataLoader[object]:
    """Return a loader that gives Poisson draws where the given one gave batches.

    The rate is batch_size/N for N records, or N persons where persons are drawn, and a pass has as many draws as N has
    batches. Records are those that the loader's own sampler draws from.
    The loader's own collate function is called for each physical batch. Where the data set has `lengths`, one number for
    each record, such as its tokens, a draw is cut into physical batches by length, so that little is padded.

    Args:
        loader: the user's own.
        physical_batch_size: most rows to collate at one time.
        stratify: from the rate and a loader to parts with rates of their own, or None.
        unit: from a batch to the person each of its rows belongs to: persons are drawn, with all their records. Reads
            every record once.

    Raises:
        ConfigurationError: something that is not a map-style DataLoader with a batch size of at most N.
        PrivacyError: a sampler that is not uniform, for which no rate would be true; or, where records are drawn, one that
            is seen to be in the data set more than once.
    """
    users, batch_size = _checked(loader)
    drawn = drawn_records(users)
    dataset: Any = users.dataset if drawn is None else Subset(users.dataset, drawn.tolist())
    _check_size(batch_size, len(dataset), "records")
    if unit is None:
        check_repeats(dataset)
    if hasattr(dataset, "__getitems__") and not isinstance(dataset, WrappedDataset):
        dataset = _Fetched(dataset)

    def drawing(strata: Strata | None = None) -> DataLoader[object]:
        return _poisson(users, dataset, batch_size, physical_batch_size, strata)

    if unit is not None:
        who = [name for part in batches_of_all_records(drawing()) for name in _unit_of_records(part, unit)]
        dataset = People(dataset, members(who), list(dict.fromkeys(who)))
        _check_size(batch_size, len(dataset), "persons")
    strata = None if stratify is None else stratify(batch_size / len(dataset), drawing())
    return drawing(strata)


def _poisson(
    users: DataLoader[object], dataset: Any, batch_size: int, max_rows: int, strata: Strata | None
) -> DataLoader[object]:
    """Return the user's loader over `dataset` with Poisson draws; everything else stays as the user set it."""
    size = len(dataset)
    rate = batch_size / size
    draws = size // batch_size + (size % batch_size > 0 and not users.drop_last)
    return DataLoader(
        dataset,
        batch_sampler=PoissonBatches(size, rate, draws, strata=strata, lengths=_lengths(dataset)),
        collate_fn=PhysicalCollate(users.collate_fn, max_rows, rate, size, shared=users.num_workers > 0),
        num_workers=users.num_workers,
        pin_memory=users.pin_memory,
        timeout=users.timeout,
        worker_init_fn=users.worker_init_fn,
        multiprocessing_context=users.multiprocessing_context,
        prefetch_factor=users.prefetch_factor,
        persistent_workers=users.persistent_workers,
    )


def _lengths(dataset: Any) -> NDArray[np.float64] | None:
    """Return `(N,)` how long each sample is, a person as long as the longest record; None where the data do not say."""
    if isinstance(dataset, WrappedDataset | Subset):
        lengths = _lengths(dataset.dataset)
        if lengths is None or not isinstance(dataset, People | Subset):
            return lengths
        records = dataset.indices if isinstance(dataset, Subset) else dataset.members
        return np.array([lengths[part].max() for part in records])
    try:
        lengths = np.asarray(getattr(dataset, "lengths", None), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return lengths if lengths.shape == (len(dataset),) and np.isfinite(lengths).all() else None


def _unit_of_records(part: PhysicalBatch, unit: Callable[[Any], Sequence[Hashable]]) -> list[Hashable]:
    """Return whom each record of a physical batch belongs to, read from the first of its rows.

    Raises:
        ConfigurationError: not one unit for each row, or a copy of a record names another unit than the record.
    """
    by_row = list(unit(part.batch))
    if len(by_row) != part.rows:
        raise ConfigurationError(f"{len(by_row)} units were given for {part.rows} rows; give one for each row")
    if part.owner is None:
        return by_row
    by_record = [by_row[int(first)] for first in first_rows(part.owner)]
    if [by_record[int(record)] for record in part.owner] != by_row:
        raise ConfigurationError("a copy of a record says that it is another person's; keep whose it is in the copies")
    return by_record


def check_owners(part: PhysicalBatch, key: UnitKey | None) -> None:
    """Refuse a batch whose rows do not belong to the persons that were drawn for it, by the entry that says so.

    Raises:
        PrivacyError: the collate function changed the order of the rows, or the data set gives other records than before.
    """
    if key is None or part.who is None or part.owner is None:
        return
    if [part.who[int(unit)] for unit in part.owner] != unit_ids(part.batch, key):
        raise PrivacyError(
            "the records drawn for a person came back as another's, so persons would be mixed inside one clip; keep "
            "which record an index gives through a fit, and the order of records in the collate function"
        )


def _checked(loader: object) -> tuple[DataLoader[object], int]:
    """Return the loader and its batch size; raises as `poisson_loader` does."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        what = type(loader.dataset if isinstance(loader, DataLoader) else loader).__name__
        raise ConfigurationError(f"Poisson sampling needs a DataLoader over a map-style data set, got {what}")
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise PrivacyError(
            f"batch sampler {type(loader.batch_sampler).__name__} is not the ledger's; give the DataLoader a batch_size"
        )
    return loader, loader.batch_size


def _check_size(batch_size: int, size: int, what: str) -> None:
    if batch_size > size:
        raise ConfigurationError(f"batch_size={batch_size} is larger than the data set's {size} {what}")
