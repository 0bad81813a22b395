"""A trial on real records, before the first release: does the gradient of one example depend on another example?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import CoupledExamples, DplitError, PrivacyError
from dplit.grads.coupling.fixed_randomness import FixedRandomness
from dplit.grads.messages import first_line
from dplit.grads.per_example import PerExample
from dplit.grads.precision import full_precision
from dplit.grads.tape.tape import Tape
from dplit.grads.types import Batch, Losses, Sample

Collate = Callable[[Sequence[Sample]], Batch]
"""From samples to a batch."""
Gradients = Callable[[Sequence[Sample]], PerExample]
"""From samples to their gradients: collate, forward, loss, backward."""
State = dict[str, Tensor]
"""Buffers and frozen parameters by name."""
Run = Callable[[Sequence[Sample], float | None], tuple[PerExample, State]]
"""From samples, and the quantile at which randomness is fixed (None: it is not), to gradients and what was written meanwhile."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}
"""Difference allowed by rounding, relative to the norm of the example's whole gradient, by the type of the activations."""
ROUGH = 5e-2
"""Difference allowed where activations are narrower than float32."""
COUNTS_ITS_DRAWS = frozenset({F.rrelu})
"""Operations that draw a number of random values that depends on their input, and so are fixed in every run."""
LEVELS = (0.25, 0.75)
"""Quantiles at which randomness is fixed, one after the other, so that a branch taken at random is taken in one of them."""


def probe(module: nn.Module, collate: Collate, losses: Losses, samples: Sequence[Sample]) -> None:
    """Refuse a model in which one example reaches another's gradient: `examine` of the gradients that the tape records.

    Args:
        module: the model, in the mode it trains in.
        collate: makes a batch of any number of samples.
        losses: computes the losses of such a batch.
        samples: as for `examine`.

    Raises:
        CoupledExamples, PrivacyError: as `examine`.
        UnsupportedOperation: the tape refuses the model.
    """

    def gradients(chosen: Sequence[Sample]) -> PerExample:
        batch = collate(chosen)
        with Tape(module, len(chosen)) as tape:
            value = losses(batch, len(chosen))
        return tape.backward(value)

    examine(module, gradients, samples)


@full_precision()
def examine(module: nn.Module, gradients: Gradients, samples: Sequence[Sample], tolerance: float = 0.0) -> None:
    """Refuse a model in which one example reaches another's gradient, or writes itself into a buffer.

    Three questions are asked about each sample:

    * With randomness fixed, is its gradient the same alone as in a batch with the others?
    * With randomness as it is, does its gradient stay the same when others trade places? This finds mixing by a random
      permutation.
    * Do buffers or frozen parameters take values from it, which checkpoints would carry out without noise?

    Dropout, padding and normalisation within an example pass. State is put back after each run. Products are computed in full
    float32 meanwhile, because rounded products differ from batch to batch.

    Args:
        module: the model, in the mode it trains in.
        gradients: computes the gradients of any number of samples.
        samples: at least two real ones; four or more for the second question.
        tolerance: relative difference allowed, for gradients that do not show the narrow types they were computed in.

    Raises:
        CoupledExamples: an example's gradient depends on another; the message names it and the parameter that differs most.
        PrivacyError: a buffer or frozen parameter takes values from an example; the message names it.
    """
    saved = _SavedState(module)

    def run(chosen: Sequence[Sample], level: float | None) -> tuple[PerExample, State]:
        randomness = FixedRandomness(only=COUNTS_ITS_DRAWS) if level is None else FixedRandomness(level)
        with _trial(saved) as written, randomness:
            result = gradients(chosen)
        return result, written

    for level in LEVELS:
        _check_alone_as_together(run, samples, level, tolerance)
    for parity in (0, 1):
        _check_trading_places(run, samples, parity, tolerance)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put back, afterwards, what trial computations change: buffers, frozen parameters and random generators."""
    with _trial(_SavedState(module)):
        yield


def _check_alone_as_together(run: Run, samples: Sequence[Sample], level: float, tolerance: float) -> None:
    """Check that each sample has the same gradient alone as together with the others, and that none is written to state."""
    together, _ = run(samples, level)
    written: list[State] = []
    for i in range(len(samples)):
        try:
            alone, state = run(samples[i : i + 1], level)
        except DplitError:
            raise
        except Exception as error:
            raise CoupledExamples(f"example {i} cannot be computed without the others: {first_line(error)}") from error
        written.append(state)
        allowed = max(tolerance, _tolerance(together))
        _compare(i, _gradient_of(together, i), _gradient_of(alone, 0), allowed, "with the other examples of its batch")
    _check_written(written)


def _check_trading_places(run: Run, samples: Sequence[Sample], parity: int, tolerance: float) -> None:
    """Check that the gradients of the other samples stay the same when every second one, from `parity` on, trades places."""
    moving = list(range(parity, len(samples), 2))
    if len(moving) < 2:
        return
    traded = list(samples)
    for here, there in zip(moving, [*moving[1:], moving[0]], strict=True):
        traded[here] = samples[there]
    before, _ = run(samples, None)
    after, _ = run(traded, None)
    allowed = max(tolerance, _tolerance(before))
    for i in set(range(len(samples))) - set(moving):
        _compare(
            i, _gradient_of(before, i), _gradient_of(after, i), allowed, "when other examples of its batch trade places"
        )


class _SavedState:
    """One copy of the buffers and frozen parameters; for a large frozen model there may be no room for a second."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}
        self.begin()

    def begin(self) -> None:
        """Copy the tensors that are new, or in the place of another, since the last time."""
        frozen = ((name, p) for name, p in self.module.named_parameters() if not p.requires_grad)
        for name, t in (*self.module.named_buffers(), *frozen):
            if name not in self._copies or self._copies[name][0] is not t:
                self._copies[name] = t, t.detach().clone()

    def put_back(self) -> State:
        """Give the tensors that changed their former values back, and return the values that they had got."""
        written: State = {}
        with torch.no_grad():
            for name, (t, copy) in self._copies.items():
                if not _same(t, copy):
                    written[name] = t.detach().clone()
                    t.copy_(copy)
        return written


@contextmanager
def _trial(saved: _SavedState) -> Iterator[State]:
    """Run a trial with fixed seeds and put state back; the yielded dictionary then holds what the trial wrote."""
    written: State = {}
    saved.begin()
    try:
        with _seeded(), torch.compiler.set_stance("force_eager"):
            yield written
    finally:
        written.update(saved.put_back())


@contextmanager
def _seeded() -> Iterator[None]:
    """Give every run the same numbers from torch, numpy and python, and put the generators back."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002


def _check_written(states: Sequence[State]) -> None:
    """Check that runs of different samples wrote the same values."""
    first = states[0]
    for name in {name for state in states for name in state}:
        if not all(name in first and name in state and _same(first[name], state[name]) for state in states):
            raise PrivacyError(
                f"{name} takes values from the examples it sees, which a checkpoint would carry out without noise; "
                "leave running statistics and codebooks of the data out of the model"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))


def _gradient_of(gradients: PerExample, i: int) -> dict[str, Tensor]:
    """Return the whole gradient of example i, by parameter name; a complex number is two numbers."""
    weights = torch.zeros_like(gradients.norms())
    weights[i] = 1.0
    sums = gradients.weighted_sum(weights)
    return {name: torch.view_as_real(g.resolve_conj()) if g.is_complex() else g for name, g in sums.items()}


def _tolerance(gradients: PerExample) -> float:
    """Return the tolerance for the narrowest type among the factors of the gradients."""
    factors = [grad for grads in gradients.factors.values() for grad in grads]
    types = {
        t.dtype.to_real()
        for grad in factors
        for t in vars(grad).values()
        if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())
    }
    return max((TOLERANCE.get(dtype, ROUGH) for dtype in types), default=ROUGH)


def _compare(i: int, before: dict[str, Tensor], after: dict[str, Tensor], tolerance: float, when: str) -> None:
    """Refuse two gradients of example i that differ by more than the tolerance times the larger norm."""
    difference = {name: float((before[name].double() - after[name].double()).norm()) for name in after}
    size = max(_norm(before), _norm(after))
    worst = max(difference, key=lambda name: float("inf") if math.isnan(difference[name]) else difference[name])
    if difference[worst] > tolerance * size:
        raise CoupledExamples(
            f"the gradient of example {i} changes {when}: by {difference[worst] / size:.2g} of its norm, most in {worst}; return "
            "losses of shape (n,), use no batch statistics (BatchNorm, means over the batch's tokens, in-batch negatives), "
            "and keep constants such as position ids in buffers"
        )


def _norm(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([g.double().norm() for g in gradients.values()]).norm())
