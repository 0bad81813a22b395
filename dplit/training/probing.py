"""Before the first release: real records show whether examples depend on one another, and how much memory they take."""

from __future__ import annotations

import numpy as np
from lightning.pytorch.plugins.precision import MixedPrecision

from dplit.clipping import ClippingPolicy
from dplit.grads.backends import MAX_EXAMPLES, PROBE_EXAMPLES, joined
from dplit.grads.batch_layout import LOOKED_AT
from dplit.grads.coupling.probe import ROUGH, examine, undisturbed
from dplit.protocols import fetch_samples
from dplit.sampling.units import single_records
from dplit.training.checks.loader import TrainLoader
from dplit.training.memory import batch_size_finder
from dplit.training.physical_batches import PhysicalBatches, StepArguments

PROBES = 2
"""How often fresh records are compared alone and in company."""


def with_layout(batches: PhysicalBatches, train: TrainLoader) -> PhysicalBatches:
    """Return the same with the layout of the loader's batches, found from real records, where the backend asks for it.

    Raises:
        ConfigurationError: the collate function makes no batch of any number of samples.
    """
    if batches.grads != "vmap":
        return batches
    records = single_records(train.loader.dataset)
    size = min(LOOKED_AT, len(records))
    with undisturbed(batches.module):
        chosen = np.random.default_rng().choice(len(records), size, replace=False).tolist()
        return batches.laid_out(fetch_samples(records, chosen), train.collate)


def check_coupling(batches: PhysicalBatches, train: TrainLoader, given: StepArguments) -> None:
    """Compare the gradients of random records alone and in company, by the backend that trains.

    Raises:
        CoupledExamples: one example's gradient depends on another's.
        PrivacyError: a buffer or frozen parameter takes values from the records.
    """
    records = single_records(train.loader.dataset)
    size = min(PROBE_EXAMPLES[batches.grads], len(records))
    rough = batches.grads != "tape" and isinstance(batches.precision, MixedPrecision)
    for _ in range(PROBES):
        chosen = np.random.default_rng().choice(len(records), size, replace=False).tolist()
        examine(
            batches.module,
            lambda samples: joined(batches.gradients_of_samples(samples, train.collate, given)),
            fetch_samples(records, chosen),
            ROUGH if rough else 0,
        )


def find_physical_batch_size(
    batches: PhysicalBatches,
    train: TrainLoader,
    policy: ClippingPolicy,
    given: StepArguments,
    memory_limit: float | None,
) -> int:
    """Return the physical batch size that fits in memory, found by trial; `memory_limit` is in GiB.

    Raises:
        ConfigurationError: one example does not fit.
    """
    return batch_size_finder.find(
        batches.module,
        lambda samples: batches.gradients_of_samples(samples, train.collate, given),
        policy,
        train.loader,
        batches.device,
        MAX_EXAMPLES.get(batches.grads),
        memory_limit,
    )
