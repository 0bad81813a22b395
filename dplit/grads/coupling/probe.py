"""Does one example's gradient depend on another example? Asked of real records before the first release."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import CoupledExamples, DplitError, PrivacyError
from dplit.grads.coupling.fixed_randomness import FixedRandomness
from dplit.grads.per_example import PerExample
from dplit.grads.precision import full_precision
from dplit.grads.tape.tape import Tape

Collate = Callable[[Sequence[Any]], Any]
"""From samples to a batch."""
Losses = Callable[[Any, int], Tensor]
"""From a batch and the number of its samples to `(n,)` losses, or their sum."""
Gradients = Callable[[Sequence[Any]], PerExample]
"""From samples to their gradients: collate, forward, loss, backward."""
Run = Callable[[Sequence[Any], float | None], tuple[PerExample, dict[str, Tensor]]]
"""From samples and where randomness is held to their gradients, and to what was written meanwhile, by name."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}
"""Difference allowed, relative to the example's whole gradient: rounding only."""
ROUGH = 5e-2
"""The same where activations are narrower than float32."""
COUNTS_ITS_DRAWS = frozenset({F.rrelu})
"""Operations that draw as many numbers as the values of their input make them."""
LEVELS = (0.25, 0.75)
"""Where randomness is held still, one after the other, so that a branch taken at random is taken once."""


def probe(module: nn.Module, collate: Collate, losses: Losses, samples: Sequence[Any]) -> None:
    """Ask `examine`'s questions of gradients that the tape records.

    Args:
        module: the model, in the mode it trains in.
        collate: makes a batch of any number of samples.
        losses: computes the losses of such a batch.
        samples: as for `examine`.
    """

    def taped(chosen: Sequence[Any]) -> PerExample:
        batch = collate(chosen)
        with Tape(module, len(chosen)) as tape:
            value = losses(batch, len(chosen))
        found: PerExample = tape.backward(value)
        return found

    examine(module, taped, samples)


@full_precision()
def examine(module: nn.Module, gradients: Gradients, samples: Sequence[Any], tolerance: float = 0.0) -> None:
    """Refuse a model in which one example reaches another's gradient, or writes itself into a buffer.

    Three questions are asked of each sample. Is its gradient the same alone as in the company of the others, with
    randomness held still? With randomness as it is, does it stay the same when others trade places, which finds
    mixing by a random permutation? And do buffers or frozen parameters take values from it, which checkpoints would
    carry out without noise? Dropout, padding and per-example normalisation pass; state is put back after each run.
    Products are of full float32 meanwhile: rounded ones differ from batch to batch.

    Args:
        module: the model, in the mode it trains in.
        gradients: computes the gradients of any number of samples.
        samples: at least two real ones; four or more for the second question.
        tolerance: relative difference allowed, where gradients do not show the narrow types they were computed in.

    Raises:
        CoupledExamples: naming the first example and the parameter that differs most.
        PrivacyError: naming the buffer.
    """
    kept = _Kept(module)

    def run(chosen: Sequence[Any], level: float | None) -> tuple[PerExample, dict[str, Tensor]]:
        still = FixedRandomness(only=COUNTS_ITS_DRAWS) if level is None else FixedRandomness(level)
        with _trial(kept) as written, still:
            found = gradients(chosen)
        return found, written

    for level in LEVELS:
        _alone_as_in_company(run, samples, level, tolerance)
    for parity in (0, 1):
        _unmoved_by_trades(run, samples, parity, tolerance)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put back what trial computations change: buffers, frozen parameters and random generators."""
    with _trial(_Kept(module)):
        yield


def _alone_as_in_company(run: Run, samples: Sequence[Any], level: float, tolerance: float) -> None:
    together, _ = run(samples, level)
    written: list[dict[str, Tensor]] = []
    for i in range(len(samples)):
        try:
            alone, state = run(samples[i : i + 1], level)
        except DplitError:
            raise
        except Exception as error:
            raise CoupledExamples(f"example {i} cannot be computed without the others: {_line(error)}") from error
        written.append(state)
        allowed = max(tolerance, _tolerance(together))
        _compare(i, _one(together, i), _one(alone, 0), allowed, "with the other examples of its batch")
    _check_written(written)


def _unmoved_by_trades(run: Run, samples: Sequence[Any], parity: int, tolerance: float) -> None:
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
        _compare(i, _one(before, i), _one(after, i), allowed, "when other examples of its batch trade places")


class _Kept:
    """One copy of the buffers and frozen parameters as they were, which for a large frozen model is all there is room for."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}
        self.begin()

    def begin(self) -> None:
        """Copy what was put in the place of another since."""
        frozen = ((name, p) for name, p in self.module.named_parameters() if not p.requires_grad)
        for name, t in (*self.module.named_buffers(), *frozen):
            if name not in self._copies or self._copies[name][0] is not t:
                self._copies[name] = t, t.detach().clone()

    def put_back(self) -> dict[str, Tensor]:
        """Return what those that changed held, and let them hold again what they held before."""
        written: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, (t, copy) in self._copies.items():
                if not _same(t, copy):
                    written[name] = t.detach().clone()
                    t.copy_(copy)
        return written


@contextmanager
def _trial(kept: _Kept) -> Iterator[dict[str, Tensor]]:
    """Yield what will hold, at the end, the buffers and frozen parameters that were written to; all is put back."""
    written: dict[str, Tensor] = {}
    kept.begin()
    try:
        with _seeded(), torch.compiler.set_stance("force_eager"):
            yield written
    finally:
        written.update(kept.put_back())


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


def _check_written(states: Sequence[dict[str, Tensor]]) -> None:
    first = states[0]
    for name in {name for state in states for name in state}:
        if not all(name in first and name in state and _same(first[name], state[name]) for state in states):
            raise PrivacyError(
                f"{name} takes values from the examples it sees, which a checkpoint would carry out without noise; "
                "leave running statistics and codebooks of the data out of the model"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))


def _one(gradients: PerExample, i: int) -> dict[str, Tensor]:
    weights = torch.zeros_like(gradients.norms())
    weights[i] = 1.0
    return gradients.weighted_sum(weights)


def _tolerance(gradients: PerExample) -> float:
    """By the narrowest type that a gradient was computed from."""
    uses = [use for found in gradients.uses.values() for use in found]
    types = {t.dtype for use in uses for t in vars(use).values() if isinstance(t, Tensor) and t.is_floating_point()}
    return max((TOLERANCE.get(dtype, ROUGH) for dtype in types), default=ROUGH)


def _compare(i: int, one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float, when: str) -> None:
    off = {name: float((one[name].double() - other[name].double()).norm()) for name in other}
    size = max(_size(one), _size(other))
    worst = max(off, key=lambda name: off[name] if off[name] == off[name] else float("inf"))
    if off[worst] > tolerance * size:
        raise CoupledExamples(
            f"the gradient of example {i} changes {when}: by {off[worst] / size:.2g} of its norm, most in {worst}; return "
            "losses of shape (n,), use no batch statistics (BatchNorm, means over the batch's tokens, in-batch negatives), "
            "and keep constants such as position ids in buffers"
        )


def _size(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([g.double().norm() for g in gradients.values()]).norm())


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
