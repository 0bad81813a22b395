"""Which records a sampler of torch draws from, where it draws each of them once a pass; any other is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from dplit.errors import ConfigurationError, PrivacyError

REMEDY = "use shuffle=True, or Subset(data, indices) with shuffle=True for a part of the records"
PART = "draw from its part of the records with DataLoader(Subset(data, indices), batch_size=..., shuffle=True)"
WEIGHTED = "use shuffle=True; a policy such as GroupRates draws groups at rates of their own, and charges them"


def drawn_records(loader: DataLoader[Any]) -> NDArray[np.int64] | None:
    """Return the indices `(N,)` that a loader's sampler gives once a pass, or None where those are all of the data set.

    Raises:
        PrivacyError: the sampler may give a record more than once a pass, or is not known to give each as likely as any
            other, so that no rate would be true.
        ConfigurationError: an index outside the data set.
    """
    dataset: Any = loader.dataset
    sampler, size = loader.sampler, len(dataset)
    if isinstance(sampler, SubsetRandomSampler):
        raise _refusal(sampler, PART)
    source = getattr(sampler, "data_source", None)
    if type(sampler) is RandomSampler and (sampler.replacement or sampler.num_samples != len(sampler.data_source)):
        raise _refusal(sampler, _of_random(sampler))
    if type(sampler) not in (RandomSampler, SequentialSampler) or source is None:
        raise _refusal(sampler, WEIGHTED if isinstance(sampler, WeightedRandomSampler) else REMEDY)
    if len(source) > size:
        raise ConfigurationError(
            f"the sampler gives {len(source)} records of a data set of {size}; give it the data set of the loader"
        )
    return None if len(source) == size else np.arange(len(source))


def _of_random(sampler: RandomSampler) -> str:
    """Return what to do instead of drawing with replacement, or fewer records than there are."""
    if sampler.replacement:
        return "use shuffle=True, which draws without replacement"
    return "use shuffle=True and, for shorter passes, Trainer(limit_train_batches=...)"


def _refusal(sampler: object, remedy: str) -> PrivacyError:
    return PrivacyError(
        f"{type(sampler).__name__} does not give each record of the data set once a pass, all alike, so the ledger's rate would "
        f"be untrue; {remedy}"
    )
