"""Before the first release: real records show whether examples depend on one another, and how much memory they take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from dplit.clipping import ClippingPolicy
from dplit.errors import CoupledExamples, DplitError
from dplit.grads.backends import PROBE_EXAMPLES, joined
from dplit.grads.coupling.fixed_randomness import FixedRandomness
from dplit.grads.coupling.probe import LEVELS, ROUGH, TOLERANCE, examine, undisturbed
from dplit.grads.per_example import PerExample
from dplit.protocols import fetch_samples
from dplit.sampling.units import single_records
from dplit.training.checks.loader import TrainLoader
from dplit.training.memory import batch_size_finder
from dplit.training.physical_batches import PhysicalBatches, StepArguments

PROBES = 2
"""How often fresh records are compared alone and in company."""


def check_coupling(batches: PhysicalBatches, train: TrainLoader, given: StepArguments) -> None:
    """Compare the gradients of random records alone and in company, by the backend that trains.

    Where `grads="auto"` falls back to a backend that takes examples apart, their company is a batch that goes through the
    model as one, which that backend alone would never see.

    Raises:
        CoupledExamples: one example's gradient depends on another's.
        PrivacyError: a buffer or frozen parameter takes values from the records.
    """
    records = single_records(train.loader.dataset)
    for _ in range(PROBES):
        samples = _some(records, PROBE_EXAMPLES[batches.engine])
        _choose_backend(batches, train, samples, given)
        rough = _takes_apart(batches) and isinstance(batches.precision, MixedPrecision)
        few = samples[: PROBE_EXAMPLES[batches.engine]]
        _check_sum(batches, train, given, few)
        examine(batches.module, partial(_gradients, batches, train, given), few, ROUGH if rough else 0)
    if batches.grads == "auto":
        batches.auto.say()


def _choose_backend(batches: PhysicalBatches, train: TrainLoader, samples: Sequence[Any], given: StepArguments) -> None:
    """Let `grads="auto"` find out what runs these samples, together and one of them alone; what none runs is told later."""
    if batches.grads != "auto":
        return
    for few in (samples, samples[:1]):
        with undisturbed(batches.module):
            try:
                joined(batches.gradients_of_samples(few, train.collate, given))
            except (DplitError, torch.OutOfMemoryError, MemoryError):
                raise
            except Exception:
                return


def _gradients(
    batches: PhysicalBatches, train: TrainLoader, given: StepArguments, samples: Sequence[Any]
) -> PerExample:
    """Return gradients as the backend computes them; of samples in company where it would take them apart."""
    if batches.grads != "auto" or len(samples) == 1 or not batches.auto.fell_back:
        return joined(batches.gradients_of_samples(samples, train.collate, given))
    company = joined(batches.in_company(samples, train.collate, given))
    if company.examples == len(samples):
        return company
    return joined(batches.gradients_of_samples(samples, train.collate, given))


def _check_sum(batches: PhysicalBatches, train: TrainLoader, given: StepArguments, samples: Sequence[Any]) -> None:
    """Compare the gradient of a scalar loss of records in company with the sum of their gradients alone.

    It is all that a scalar shows where `grads="auto"` takes examples apart.
    """
    if len(samples) < 2 or batches.grads != "auto" or not batches.auto.fell_back:
        return
    with undisturbed(batches.module), FixedRandomness(LEVELS[0]):
        company = joined(batches.in_company(samples, train.collate, given))
        if company.examples == len(samples):
            return
        alone = [joined(batches.gradients_of_samples([one], train.collate, given)) for one in samples]
    whole = company.weighted_sum(torch.ones(1, device=batches.device))
    parts = [part.weighted_sum(torch.ones(1, device=batches.device)) for part in alone]
    sums = {name: torch.stack([part[name] for part in parts]).sum(0) for name in whole}
    size = sum(float(part[name].double().norm()) for part in parts for name in whole)
    worst = max(whole, key=lambda name: float((whole[name] - sums[name]).double().norm()))
    difference = float((whole[worst] - sums[worst]).double().norm())
    allowed = ROUGH if isinstance(batches.precision, MixedPrecision) else TOLERANCE[torch.float32]
    if not difference <= allowed * size:
        raise CoupledExamples(
            f"the gradient of {len(samples)} examples together is not the sum of their gradients alone: it differs by "
            f"{difference / max(size, 1e-300):.2g} of its size, most in {worst}; return losses of shape (n,), use no batch "
            "statistics, and say what a scalar is with loss_reduction"
        )


def _takes_apart(batches: PhysicalBatches) -> bool:
    return batches.auto.fell_back if batches.grads == "auto" else batches.grads != "tape"


def _some(records: Any, size: int) -> list[Any]:
    """Return as many random records, or all."""
    chosen = np.random.default_rng().choice(len(records), min(size, len(records)), replace=False)
    return fetch_samples(records, chosen.tolist())


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
        batches.max_rows,
        memory_limit,
    )
