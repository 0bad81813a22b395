"""Real records show, at first and again and again, whether examples depend on one another, and how much memory they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from dplit.clipping import ClippingPolicy
from dplit.errors import DplitError
from dplit.grads.backends import PROBE_EXAMPLES, joined
from dplit.grads.batch_layout import LOOKED_AT
from dplit.grads.coupling.probe import LEVELS, ROUGH, examine, examine_in_company
from dplit.grads.coupling.trial import Trials
from dplit.grads.per_example import PerExample
from dplit.protocols import DeclaresClasses, datamodule_of, fetch_samples
from dplit.sampling.units import SingleRecords, single_records
from dplit.training.checks.loader import TrainLoader
from dplit.training.memory import batch_size_finder
from dplit.training.physical_batches import PhysicalBatches, StepArguments

PROBES = 2
"""How often fresh records are compared alone and in company before the first release."""
CERTIFIED = 8
"""Most records of the step that is followed before the first; later steps of other paths are followed as they come."""
POOL = 256
"""Records among which labels, and the longest and the shortest, are looked for."""
POOL_SECONDS = 0.5
"""No more records are fetched for the pool after this time."""
FREE_SECONDS = 2.0
"""What the probes after the first may take in any fit."""
SHARE = 0.02
"""What they may take of the time of a long fit."""
NEW_FLAGS = 16
"""Changes of the modules' modes that are probed at once, whatever it costs; later ones wait their turn."""


class Probes:
    """When records are looked at again: at draws 1, 2, 4, 8, ..., epochs 1, 2, 4, 8, ..., and when modes or loader change.

    The first time is thorough. Later ones wait until they fit into `SHARE` of the time of the fit, or `FREE_SECONDS`; those for
    modules that change between training and evaluation, parameters that are frozen or not, or a new loader do not wait.

    Args:
        batches: takes physical batches through the model.
        train: the loader of the fit.
        trials: runs without a trace.
    """

    def __init__(self, batches: PhysicalBatches, train: TrainLoader, trials: Trials) -> None:
        self.batches = batches
        self.train = train
        self.trials = trials
        self.done = False
        """Whether the first time is over."""
        self._draws = 0
        self._epochs: set[int] = set()
        self._flags: set[int] = set()
        self._waiting = self._unseen = False
        self._first = self._spent = 0.0
        self._cost = 0.0
        self._start = time.perf_counter()

    def before_draw(self, given: StepArguments, epoch: int = 0) -> bool:
        """Look at records if it is time to; return whether it was.

        Raises:
            CoupledExamples: one example's gradient depends on another's.
            PrivacyError: a tensor that stays takes values from the records, or nothing could be compared.
        """
        changed = self._changed()
        due = self._is_new_epoch(epoch) | _is_power_of_two(self._draws)
        self._draws += 1
        if not self.done or (self._unseen and self._fits(self._first)):
            self._look_thoroughly(given)
            return True
        self._waiting |= due
        if not changed and not (self._waiting and self._fits(self._cost)):
            return False
        self._again(given)
        return True

    def _look_thoroughly(self, given: StepArguments) -> None:
        """Look for the first time, or where nothing was seen so far, because all gradients were zero."""
        start = time.perf_counter()
        self._unseen = not check_coupling(self.batches, self.train, given, self.trials)
        now = time.perf_counter()
        self._first = now - start
        if self.done:
            self._spent += self._first
        else:
            self.done, self._start = True, now

    def _again(self, given: StepArguments) -> None:
        """Look at a few records, and at as many as go through the model at one time, where that fits; never at more."""
        start, size = time.perf_counter(), self.train.collate.max_rows
        few = PROBE_EXAMPLES[self.batches.engine]
        if self.batches.max_rows is None:
            few = min(few, size)
        check_company(self.batches, self.train, given, self.trials, few)
        self._cost = time.perf_counter() - start
        self._spent += self._cost
        if size > few and self._fits(self._cost * size / few):
            start = time.perf_counter()
            check_company(self.batches, self.train, given, self.trials, size)
            self._spent += time.perf_counter() - start
        self._waiting = False

    def _fits(self, seconds: float) -> bool:
        return self._spent + seconds <= max(FREE_SECONDS, SHARE * (time.perf_counter() - self._start))

    def _is_new_epoch(self, epoch: int) -> bool:
        new = epoch not in self._epochs
        self._epochs.add(epoch)
        return new and _is_power_of_two(epoch)

    def _changed(self) -> bool:
        """Whether modes, frozen parameters and loader are together as they never were before."""
        module = self.batches.module
        modes = tuple(part.training for part in module.modules())
        flags = hash((modes, tuple(p.requires_grad for p in module.parameters()), id(self.train.loader)))
        if flags in self._flags or len(self._flags) >= NEW_FLAGS:
            return False
        self._flags.add(flags)
        return len(self._flags) > 1


def with_layout(batches: PhysicalBatches, train: TrainLoader, trials: Trials | None = None) -> PhysicalBatches:
    """Return the same with the layout of the loader's batches, found from real records.

    Raises:
        ConfigurationError: the collate function makes no batch of any number of samples.
    """
    records = single_records(train.loader.dataset)
    with (trials or Trials(batches.module)).run():
        return batches.laid_out(_random(records, LOOKED_AT), train.collate)


def certify(batches: PhysicalBatches, train: TrainLoader, given: StepArguments, trials: Trials) -> None:
    """Follow the operations of one step, on random records, before anything else is seen of them.

    Raises:
        CoupledExamples, PrivacyError, UnsupportedOperation: as `PhysicalBatches.certify`.
    """
    records = single_records(train.loader.dataset)
    with trials.run():
        batches.certify(_random(records, min(train.collate.max_rows, CERTIFIED)), train.collate, given)


def check_coupling(
    batches: PhysicalBatches, train: TrainLoader, given: StepArguments, trials: Trials | None = None
) -> bool:
    """Compare the gradients of random records alone and in company, by the backend that trains.

    Where `grads="auto"` falls back to a backend that takes examples apart, their company is a batch that goes through the
    model as one, which that backend alone would never see.

    Returns:
        Whether any could be compared; False where all are zero.

    Raises:
        CoupledExamples: one example's gradient depends on another's.
        PrivacyError: a tensor that stays takes values from the records, or nothing could be compared.
    """
    trials = trials or Trials(batches.module)
    records, few = single_records(train.loader.dataset), PROBE_EXAMPLES[batches.engine]
    pool, start = _pool(records), time.perf_counter()
    compared = False
    for turn in range(PROBES):
        gradients, rough, classes = _gradients(batches, train, given), _rough(batches), _classes(batches)
        chosen, company = _random(records, few), pool if turn == PROBES - 1 else None
        compared |= examine(trials, gradients, chosen, rough, company, classes, LEVELS[turn % 2 :])
    seconds, size = time.perf_counter() - start, min(train.collate.max_rows, len(records))
    if size > few and batches.max_rows is None and seconds * size / few / 10 < FREE_SECONDS:
        check_company(batches, train, given, trials, size, pool)
    return compared


def check_company(
    batches: PhysicalBatches,
    train: TrainLoader,
    given: StepArguments,
    trials: Trials,
    size: int,
    pool: Sequence[Any] | None = None,
) -> None:
    """Compare the gradients of random records in ordinary company and in extreme company.

    Args:
        batches: as for `Probes`.
        train: as for `Probes`.
        given: what the trainer passes to `training_step` beside the batch.
        trials: as for `Probes`.
        size: of the batches that are compared.
        pool: records to take the extreme ones from; others are fetched if None.

    Raises:
        CoupledExamples: one example's gradient depends on another's.
        PrivacyError: a tensor that stays takes values from the records.
    """
    records = single_records(train.loader.dataset)
    samples, pool = _random(records, size), _pool(records) if pool is None else pool
    examine_in_company(trials, _gradients(batches, train, given), samples, _rough(batches), pool, _classes(batches))


def choose_backend(batches: PhysicalBatches, train: TrainLoader, given: StepArguments, trials: Trials) -> None:
    """Let `grads="auto"` find out what runs random records, together and one of them alone; what none runs is told later."""
    if batches.grads != "auto":
        return
    samples = _random(single_records(train.loader.dataset), PROBE_EXAMPLES["tape"])
    for few in (samples, samples[:1]):
        with trials.run():
            try:
                joined(batches.gradients_of_samples(few, train.collate, given))
            except (DplitError, torch.OutOfMemoryError, MemoryError):
                raise
            except Exception:
                break
    batches.auto.say()


def _takes_apart(batches: PhysicalBatches) -> bool:
    return batches.auto.fell_back if batches.grads == "auto" else batches.grads != "tape"


def find_physical_batch_size(
    batches: PhysicalBatches,
    train: TrainLoader,
    policy: ClippingPolicy,
    given: StepArguments,
    memory_limit: float | None,
    trials: Trials | None = None,
) -> int:
    """Return the physical batch size that fits in memory, found by trial; `memory_limit` is in GiB.

    Raises:
        ConfigurationError: one example does not fit.
    """
    return batch_size_finder.find(
        batches.module,
        lambda samples: batches.unproven().gradients_of_samples(samples, train.collate, given, proven=True),
        policy,
        train.loader,
        batches.device,
        batches.max_rows,
        memory_limit,
        trials,
    )


def _gradients(batches: PhysicalBatches, train: TrainLoader, given: StepArguments) -> Any:
    """Return what computes gradients as the backend does; of samples in company where it would take them apart."""

    def gradients(samples: Sequence[Any]) -> PerExample:
        if batches.grads == "auto" and batches.auto.fell_back and len(samples) > 1:
            return joined(batches.in_company(samples, train.collate, given))
        return joined(batches.gradients_of_samples(samples, train.collate, given))

    return gradients


def _random(records: SingleRecords, size: int) -> list[Any]:
    chosen = np.random.default_rng().choice(len(records), min(size, len(records)), replace=False)
    return fetch_samples(records, chosen.tolist())


def _pool(records: SingleRecords) -> list[Any]:
    """Return random records, and the longest and the shortest where the data set says how long each is."""
    chosen = np.random.default_rng().permutation(len(records))[:POOL].tolist()
    try:
        lengths = np.asarray(getattr(records, "lengths", None), dtype=np.float64)
    except (TypeError, ValueError):
        lengths = np.zeros(0)
    extremes = [int(lengths.argmax()), int(lengths.argmin())] if lengths.shape == (len(records),) else []
    pool, start = fetch_samples(records, extremes), time.perf_counter()
    for k in range(0, len(chosen), 32):
        pool += fetch_samples(records, chosen[k : k + 32])
        if time.perf_counter() - start > POOL_SECONDS:
            break
    return pool


def _rough(batches: PhysicalBatches) -> float:
    """Return the tolerance where gradients do not show the narrow types they were computed in."""
    return ROUGH if _takes_apart(batches) and isinstance(batches.precision, MixedPrecision) else 0


def _classes(batches: PhysicalBatches) -> int | None:
    data = datamodule_of(batches.module._trainer)
    return data.num_classes if isinstance(data, DeclaresClasses) else None


def _is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0
