"""Poisson draws from a person's own DataLoader, handed out as physical batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
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
    """

    def __init__(self, size: int, rate: float, draws: int, seed: int | None = None) -> None:
        if not 0 < rate <= 1:
            raise ConfigurationError(f"rate={rate} must lie in (0, 1]")
        self.size = size
        self.rate = rate
        self.draws = draws
        self.seed = seed

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(self.seed)
        for _ in range(self.draws):
            drawn = generator.binomial(self.size, self.rate)
            yield np.sort(generator.choice(self.size, drawn, replace=False, shuffle=False)).tolist()


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


def poisson_loader(loader: Any, physical_batch_size: int) -> DataLoader[Any]:
    """Return a loader that gives Poisson draws where the given one gave batches.

    The rate is batch_size/N, the draws in a pass are the batches the given loader had, and its own collate function
    is called for each physical batch.

    Raises:
        ConfigurationError: something that is not a map-style DataLoader with a batch size within the data set.
        PrivacyError: a sampler that is not uniform, for which no rate would be true.
    """
    _check(loader)
    sampler = PoissonBatches(len(loader.dataset), loader.batch_size / len(loader.dataset), len(loader))
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
