"""Poisson draws from a person's own DataLoader, handed out as physical batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from dplit.errors import ConfigurationError, PrivacyError

Strata = Sequence[tuple[NDArray[np.int64], float]]
"""A partition of the records: the indices of each part, and the rate at which they are drawn."""


class PhysicalBatch:
    """One part of a draw, as the person's collate function made it, and how many examples it holds."""

    def __init__(self, batch: Any, size: int) -> None:
        self.batch = batch
        self.size = size


class Draw:
    """All records of one Poisson draw; it may have no parts. Opaque to whatever maps over collections.

    Args:
        parts: the physical batches.
        rate: each record's probability to have been drawn.
        records: N, how many there were to draw from.
    """

    def __init__(self, parts: tuple[PhysicalBatch, ...], rate: float, records: int) -> None:
        self.parts = parts
        self.rate = rate
        self.records = records

    @property
    def size(self) -> int:
        """Records drawn: private, it never leaves."""
        return sum(part.size for part in self.parts)


class PoissonBatches(Sampler[list[int]]):
    """Draws in which each of `size` records is included independently with probability `rate`.

    A binomial size and then a uniform subset of that size, which is the same law.

    Args:
        size: N, the records in the data set.
        rate: q in (0, 1].
        draws: how many draws one pass gives.
        seed: None for the operating system's randomness, which the amplification by sampling relies on.
        strata: parts with rates of their own in place of `rate`, every record in one of them.

    Raises:
        ConfigurationError: a rate outside (0, 1], or strata that are no partition of the records.
    """

    def __init__(
        self, size: int, rate: float, draws: int, seed: int | None = None, strata: Strata | None = None
    ) -> None:
        self.strata = [(np.arange(size), rate)] if strata is None else list(strata)
        for own in (rate, *(own for _, own in self.strata)):
            if not 0 < own <= 1:
                raise ConfigurationError(f"rate={own} must lie in (0, 1]")
        if not np.array_equal(np.sort(np.concatenate([part for part, _ in self.strata])), np.arange(size)):
            raise ConfigurationError(f"the strata must hold each of the {size} records once")
        self.size = size
        self.rate = rate
        self.draws = draws
        self.seed = seed

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(self.seed)
        for _ in range(self.draws):
            drawn = [_subset(part, rate, generator) for part, rate in self.strata]
            yield np.sort(np.concatenate(drawn)).tolist()


def _subset(part: NDArray[np.int64], rate: float, generator: np.random.Generator) -> NDArray[np.int64]:
    drawn = generator.binomial(len(part), rate)
    return part[generator.choice(len(part), drawn, replace=False, shuffle=False)]


class PhysicalCollate:
    """Cuts a draw into physical batches and collates each by the person's own function."""

    def __init__(self, collate: Callable[[list[Any]], Any], most: int, rate: float, records: int) -> None:
        self.collate = collate
        self.most = most
        self.rate = rate
        self.records = records

    def __call__(self, samples: Sequence[Any]) -> Draw:
        """Return the draw of these samples, which may be none."""
        cuts = [list(samples[i : i + self.most]) for i in range(0, len(samples), self.most)]
        parts = tuple(PhysicalBatch(self.collate(cut), len(cut)) for cut in cuts)
        return Draw(parts, self.rate, self.records)


class _Records(Dataset[Any]):
    """A data set that is fetched by lists, asked for no records, too."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return records(self.dataset, indices)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def records(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Return the samples at these indices, all at once where the data set can."""
    if not len(indices):
        return []
    fetch = getattr(dataset, "__getitems__", None)
    return list(fetch(list(indices))) if callable(fetch) else [dataset[i] for i in indices]


def strata(loader: Any, physical_batch_size: int, read: Callable[[Any], Tensor], rates: Sequence[float]) -> Strata:
    """Return the records of each group with the group's rate; reads every record once.

    Args:
        loader: whose records and collate function are used.
        physical_batch_size: records to collate at one time.
        read: from a batch to its `(n,)` group ids.
        rates: of group 0, 1, ...
    """
    size = len(loader.dataset)
    chunks = (range(i, min(i + physical_batch_size, size)) for i in range(0, size, physical_batch_size))
    found = [read(loader.collate_fn(records(loader.dataset, chunk))).cpu().numpy() for chunk in chunks]
    ids = np.concatenate(found)
    return [(np.flatnonzero(ids == k), rate) for k, rate in enumerate(rates)]


def poisson_loader(
    loader: Any, physical_batch_size: int, stratify: Callable[[float, Any], Strata | None] | None = None
) -> DataLoader[Any]:
    """Return a loader that gives Poisson draws where the given one gave batches.

    The rate is batch_size/N, the draws in a pass are the batches the given loader had, and its own collate function
    is called for each physical batch.

    Args:
        loader: the person's own.
        physical_batch_size: most records to collate at one time.
        stratify: from the rate and the loader to parts with rates of their own, or None.

    Raises:
        ConfigurationError: something that is not a map-style DataLoader with a batch size within the data set.
        PrivacyError: a sampler that is not uniform, for which no rate would be true.
    """
    _check(loader)
    size, rate = len(loader.dataset), loader.batch_size / len(loader.dataset)
    sampler = PoissonBatches(size, rate, len(loader), strata=stratify(rate, loader) if stratify else None)
    dataset = _Records(loader.dataset) if hasattr(loader.dataset, "__getitems__") else loader.dataset
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=PhysicalCollate(loader.collate_fn, physical_batch_size, sampler.rate, sampler.size),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
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
    if loader.batch_size > size:
        raise ConfigurationError(f"batch_size={loader.batch_size} is larger than the data set's {size} records")
