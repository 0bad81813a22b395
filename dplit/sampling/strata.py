"""Which group each unit belongs to, and the rate at which it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    DataLoader,
)

from dplit.protocols import fetch_samples
from dplit.sampling.draws import PhysicalBatch, PhysicalCollate, cut_into_physical_batches
from dplit.sampling.poisson import Strata
from dplit.sampling.units import People, group_of_units, one_group_per_unit


def strata(loader: DataLoader[object], read: Callable[[Any], Tensor], rates: Sequence[float]) -> Strata:
    """Return the units of each group with the group's rate; reads every record once.

    Args:
        loader: one of `poisson_loader`.
        read: from a batch to its `(n,)` group ids.
        rates: of group 0, 1, ...

    Raises:
        ConfigurationError: the records of one person are in different groups.
    """
    ids = groups_of_units(loader, read)
    return [(np.flatnonzero(ids == group), rate) for group, rate in enumerate(rates)]


def groups_of_units(loader: DataLoader[object], read: Callable[[Any], Tensor]) -> NDArray[np.int64]:
    """Return the group id of each unit of one of `poisson_loader`; the arguments are those of `strata`.

    Raises:
        ConfigurationError: the records of one person are in different groups.
    """
    batches = batches_of_all_records(loader)
    ids = np.concatenate([group_of_units(read(part.batch), part.owner).cpu().numpy() for part in batches])
    return one_group_per_unit(ids, loader.dataset.members) if isinstance(loader.dataset, People) else ids


def batches_of_all_records(loader: DataLoader[object]) -> Iterator[PhysicalBatch]:
    """Yield every record of one of `poisson_loader` once, with its copies, in physical batches.

    Where persons are drawn, their records are yielded one by one, as if records were drawn.
    """
    collate = loader.collate_fn
    assert isinstance(collate, PhysicalCollate), "poisson_loader sets it"
    dataset: Any = loader.dataset.dataset if isinstance(loader.dataset, People) else loader.dataset
    size = len(dataset)
    for start in range(0, size, collate.max_rows):
        samples = fetch_samples(dataset, range(start, min(start + collate.max_rows, size)))
        for run in cut_into_physical_batches(samples, collate.max_rows):
            yield collate.together(run)
