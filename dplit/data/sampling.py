"""Poisson draws from a person's own DataLoader, handed out as physical batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
)

from dplit.data.units import (
    People,
    Together,
    Wrapped,
    firsts,
    flat,
    members,
    of_units,
    owners,
    records,
    same_of_units,
    unit_ids,
)
from dplit.errors import ConfigurationError, PrivacyError

Strata = Sequence[tuple[NDArray[np.int64], float]]
"""A partition of the records: the indices of each part, and the rate at which they are drawn."""


class PhysicalBatch:
    """One part of a draw, as the person's collate function made it, and how many rows and units it holds.

    Args:
        batch: collated.
        rows: examples in it.
        owner: `(rows,)` which of its `units` each belongs to; None where each is a unit by itself.
        units: how many things were drawn.
        who: who each unit is, where persons are drawn.

    Attributes:
        more: the further physical batches of its one unit, where that has more rows than go into one.
    """

    def __init__(
        self, batch: Any, rows: int, owner: Tensor | None, units: int, who: Sequence[Any] | None = None
    ) -> None:
        self.batch = batch
        self.rows = rows
        self.owner = owner
        self.units = units
        self.who = who
        self.more: tuple[PhysicalBatch, ...] = ()


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
        """Records, or units, drawn: private, it never leaves."""
        return sum(part.units for part in self.parts)


class PoissonBatches(Sampler[list[int]]):
    """Draws in which each of `size` records is included independently with probability `rate`.

    A binomial size and then a uniform subset of that size, which is the same law.

    Args:
        size: N, the records in the data set.
        rate: q in (0, 1].
        draws: how many draws one pass gives.
        seed: None for the operating system's randomness, which the amplification by sampling relies on.
        strata: parts with rates of their own in place of `rate`, every record in one of them.
        lengths: of each record. A draw is given from the longest to the shortest, so that neighbours need little padding;
            which records are in it is as before.

    Raises:
        ConfigurationError: a rate outside (0, 1], or strata that are no partition of the records.
    """

    def __init__(
        self,
        size: int,
        rate: float,
        draws: int,
        seed: int | None = None,
        strata: Strata | None = None,
        lengths: NDArray[Any] | None = None,
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
        self.lengths = lengths

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(self.seed)
        for _ in range(self.draws):
            drawn = [_subset(part, rate, generator) for part, rate in self.strata]
            indices = np.sort(np.concatenate(drawn))
            yield (indices if self.lengths is None else _longest_first(indices, self.lengths)).tolist()


def _longest_first(indices: NDArray[np.int64], lengths: NDArray[Any]) -> NDArray[np.int64]:
    return indices[np.argsort(-lengths[indices], kind="stable")]


def _subset(part: NDArray[np.int64], rate: float, generator: np.random.Generator) -> NDArray[np.int64]:
    drawn = generator.binomial(len(part), rate)
    return part[generator.choice(len(part), drawn, replace=False, shuffle=False)]


class PhysicalCollate:
    """Cuts a draw into physical batches and collates each by the person's own function.

    What belongs together stays together: a unit of more rows than `most` is one physical batch, and `more` of its own.
    `most` may be set while a loader is in use; its workers follow if it is shared.
    """

    def __init__(
        self, collate: Callable[[list[Any]], Any], most: int, rate: float, records: int, shared: bool = False
    ) -> None:
        self.collate = collate
        self.rate = rate
        self.records = records
        self._most = torch.tensor(most)
        if shared:
            self._most.share_memory_()

    @property
    def most(self) -> int:
        """Most rows of a physical batch, except for a unit that holds more."""
        return int(self._most)

    @most.setter
    def most(self, most: int) -> None:
        self._most.fill_(most)

    def __call__(self, samples: Sequence[Any]) -> Draw:
        """Return the draw of these samples, which may be none."""
        return Draw(tuple(self._limited(cut) for cut in _cuts(samples, self.most)), self.rate, self.records)

    def part(self, samples: Sequence[Any]) -> PhysicalBatch:
        """Return one physical batch of these samples."""
        rows = list(flat(samples))
        who = [getattr(sample, "who", None) for sample in samples] if _persons(samples) else None
        return PhysicalBatch(self.collate(rows), len(rows), owners(samples), len(samples), who)

    def _limited(self, samples: Sequence[Any]) -> PhysicalBatch:
        if len(samples) > 1 or _rows(samples[0]) <= self.most:
            return self.part(samples)
        first, *more = (self.part([piece]) for piece in _pieces(samples[0], self.most))
        first.more = tuple(more)
        return first


def _persons(samples: Sequence[Any]) -> bool:
    return bool(samples) and getattr(samples[0], "who", None) is not None


def _rows(sample: Any) -> int:
    return len(sample) if isinstance(sample, Together) else 1


def _pieces(unit: Together, most: int) -> Iterator[Together]:
    for start in range(0, len(unit), most):
        piece = Together(unit[start : start + most])
        piece.who = unit.who
        yield piece


def _cuts(samples: Sequence[Any], most: int) -> Iterator[list[Any]]:
    cut: list[Any] = []
    rows = 0
    for sample in samples:
        size = _rows(sample)
        if cut and rows + size > most:
            yield cut
            cut, rows = [], 0
        cut.append(sample)
        rows += size
    if cut:
        yield cut


class _Records(Wrapped):
    """A data set that is fetched by lists, asked for no records, too."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return records(self.dataset, indices)


def strata(loader: DataLoader[Any], read: Callable[[Any], Tensor], rates: Sequence[float]) -> Strata:
    """Return the units of each group with the group's rate; reads every record once.

    Args:
        loader: one of `poisson_loader`.
        read: from a batch to its `(n,)` group ids.
        rates: of group 0, 1, ...

    Raises:
        ConfigurationError: the records of one person are in different groups.
    """
    ids = groups_of_units(loader, read)
    return [(np.flatnonzero(ids == k), rate) for k, rate in enumerate(rates)]


def groups_of_units(loader: DataLoader[Any], read: Callable[[Any], Tensor]) -> NDArray[np.int64]:
    """Return the group id of each unit of one of `poisson_loader`; the arguments are those of `strata`.

    Raises:
        ConfigurationError: the records of one person are in different groups.
    """
    ids = np.concatenate([of_units(read(part.batch), part.owner).cpu().numpy() for part in _all(loader)])
    return same_of_units(ids, loader.dataset.members) if isinstance(loader.dataset, People) else ids


def _all(loader: DataLoader[Any]) -> Iterator[PhysicalBatch]:
    """Yield every record once, with its copies, in physical batches; records of a person are yielded one by one."""
    collate: PhysicalCollate = loader.collate_fn  # type: ignore[assignment]
    dataset: Any = loader.dataset.dataset if isinstance(loader.dataset, People) else loader.dataset
    size = len(dataset)
    for start in range(0, size, collate.most):
        for cut in _cuts(records(dataset, range(start, min(start + collate.most, size))), collate.most):
            yield collate.part(cut)


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
    if hasattr(dataset, "__getitems__") and not isinstance(dataset, Wrapped):
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
    if isinstance(dataset, Wrapped | Subset):
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
    owners = [found[int(first)] for first in firsts(part.owner)]
    if [owners[int(i)] for i in part.owner] != list(found):
        raise ConfigurationError("a copy of a record says that it is another person's; keep whose it is in the copies")
    return owners


def check_whose(part: PhysicalBatch, key: Any) -> None:
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
