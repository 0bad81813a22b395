"""A trial on real records: does the gradient of one example depend on another example?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dplit.errors import CoupledExamples, DplitError, PrivacyError
from dplit.grads.coupling.companions import CastsToIntegers, Company, companies, mixed
from dplit.grads.coupling.fixed_randomness import FixedRandomness
from dplit.grads.coupling.generators import numbers_drawn, seed_all
from dplit.grads.coupling.trial import Trials
from dplit.grads.messages import first_line
from dplit.grads.per_example import PerExample
from dplit.grads.precision import full_precision
from dplit.grads.tape.tape import Tape
from dplit.grads.types import Batch, Losses, Sample

Collate = Callable[[Sequence[Sample]], Batch]
"""From samples to a batch."""
Gradients = Callable[[Sequence[Sample]], PerExample]
"""From samples to their gradients: collate, forward, loss, backward."""

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

    examine(Trials(module), gradients, samples)


@full_precision()
def examine(
    trials: Trials,
    gradients: Gradients,
    samples: Sequence[Sample],
    tolerance: float = 0.0,
    pool: Sequence[Sample] | None = (),
    classes: int | None = None,
    levels: Sequence[float] = LEVELS,
) -> bool:
    """Refuse a model in which one example reaches another's gradient.

    Four questions are asked:

    * With randomness fixed, is the gradient of each sample the same alone as in a batch with the others?
    * With randomness as it is, does it stay the same when others trade places? This finds mixing by a random permutation.
    * With randomness fixed, does it stay the same when the others have huge values, each label, or the longest or shortest
      record in their place?
    * Where metrics keep a state: does it stay the same when other records went before?

    A gradient that is finite in one of the two and not in the other has changed. Dropout, padding and normalisation within
    an example pass. State is put back after each run. Products are computed in full float32 meanwhile, because rounded
    products differ from batch to batch.

    Args:
        trials: of the model, in the mode it trains in.
        gradients: computes the gradients of any number of samples.
        samples: at least two real ones; four or more for the second question.
        tolerance: relative difference allowed, for gradients that do not show the narrow types they were computed in.
        pool: more records, of which labels and the longest and shortest are taken; the samples themselves if empty. None
            leaves the third question out.
        classes: a declared number of classes.
        levels: quantiles at which randomness is fixed for the first question.

    Returns:
        Whether a gradient could be compared; False where all were zero, so that they carry nothing and show nothing.

    Raises:
        CoupledExamples: an example's gradient depends on another; the message names it and the parameter that differs most.
        PrivacyError: no gradient was finite, or a tensor that stays was written.
    """
    look = _Look(trials, gradients, tolerance)
    compared = sum(look.alone_as_together(samples, level) for level in levels)
    for parity in (0, 1):
        look.trading_places(samples, parity)
    if not compared and not look.zeros:
        raise PrivacyError(
            f"the gradients of {len(samples)} records are not finite, so that nothing shows whether they depend on one another; "
            "start from parameters and records that have finite losses"
        )
    kinds = [] if pool is None else look.companies(samples, pool or samples, classes)
    for turn, company in enumerate(kinds):
        look.in_company(samples, company, turn)
    look.after_others(samples, kinds)
    return compared > 0


@full_precision()
def examine_in_company(
    trials: Trials,
    gradients: Gradients,
    samples: Sequence[Sample],
    tolerance: float = 0.0,
    pool: Sequence[Sample] = (),
    classes: int | None = None,
) -> None:
    """Ask the third question in four runs: first one half of the samples, then the other has companions of all kinds.

    Args:
        trials: as for `examine`.
        gradients: as for `examine`.
        samples: as for `examine`.
        tolerance: as for `examine`.
        pool: as for `examine`.
        classes: as for `examine`.

    Raises:
        CoupledExamples: an example's gradient depends on another.
        PrivacyError: a tensor that stays was written.
    """
    look = _Look(trials, gradients, tolerance)
    kinds = look.companies(samples, pool or samples, classes)
    for turn in (0, 1):
        look.in_company_of_all(samples, kinds or [Company("with others", [*samples[1:], *samples[:1]])], turn)
    look.after_others(samples, kinds)


class _Result(NamedTuple):
    """Gradients of a trial run."""

    gradients: PerExample
    repeatable_alone: bool
    """Whether a batch of one would get the same random numbers: numpy and python gave none."""


class _Look:
    """Compares the gradients of trial runs."""

    def __init__(self, trials: Trials, gradients: Gradients, tolerance: float) -> None:
        self.trials = trials
        self.gradients = gradients
        self.tolerance = tolerance
        self.zeros = 0
        self._known: dict[tuple[int, tuple[int, ...], float | None, int], tuple[Tensor, _Summary, float]] = {}

    def alone_as_together(self, samples: Sequence[Sample], level: float) -> int:
        """Check that each sample has the same gradient alone as with the others; return how many could be compared."""
        together, repeatable = self._run(samples, level)
        allowed = self._allowed(together)
        compared = 0
        for i in range(len(samples)):
            try:
                alone, _ = self._run(samples[i : i + 1], level)
            except DplitError:
                raise
            except Exception as error:
                raise CoupledExamples(
                    f"example {i} cannot be computed without the others: {first_line(error)}"
                ) from error
            before, after = gradient_of(together, i), gradient_of(alone, 0)
            self.zeros += all(not bool(g.any()) for g in (*before.values(), *after.values()))
            compared += compare(
                i, before, after, allowed if repeatable else math.inf, "with the other examples of its batch"
            )
        return compared

    def trading_places(self, samples: Sequence[Sample], parity: int) -> None:
        """Check that the gradients of others stay the same when every second sample, from `parity` on, trades places."""
        moving = list(range(parity, len(samples), 2))
        if len(moving) < 2:
            return
        traded = list(samples)
        for here, there in zip(moving, [*moving[1:], moving[0]], strict=True):
            traded[here] = samples[there]
        staying = sorted(set(range(len(samples))) - set(moving))
        self._same(samples, traded, staying, None, "when other examples of its batch trade places", seed=parity)

    def companies(self, samples: Sequence[Sample], pool: Sequence[Sample], classes: int | None) -> list[Company]:
        """Return the companies to try; where an index out of range ends the process, no values that may become one."""
        kinds = companies(samples, pool, classes)
        if any(p.device.type == "cuda" for p in self.trials.module.parameters()):
            casts = CastsToIntegers()
            with casts:
                self._run(samples[:1], LEVELS[0])
            kinds = [kind for kind in kinds if not (casts.seen and "values" in kind.name)]
        return kinds

    def in_company(self, samples: Sequence[Sample], company: Company, turn: int) -> bool:
        """Check that the gradients of every second sample stay the same when the others are replaced.

        A company that the model cannot compute says nothing: then False is returned.
        """
        replaced = list(range(turn % 2, len(samples), 2))
        other = list(samples)
        for k, i in enumerate(replaced):
            other[i] = company.samples[(turn + k) % len(company.samples)]
        staying = sorted(set(range(len(samples))) - set(replaced))
        when = f"when other examples of its batch are replaced by ones {company.name}"
        return self._same(samples, other, staying, LEVELS[turn % 2], when, may_fail=True)

    def in_company_of_all(self, samples: Sequence[Sample], kinds: Sequence[Company], turn: int) -> None:
        """Check `in_company` of all kinds at once, or one by one where the model cannot compute all at once."""
        if not self.in_company(samples, mixed(kinds, turn), turn):
            for company in kinds:
                self.in_company(samples, company, turn)

    def after_others(self, samples: Sequence[Sample], kinds: Sequence[Company]) -> None:
        """Check that gradients stay the same when other samples went before and metrics, or scratch, keep what they left."""
        if not self.trials.state.metrics:
            return
        before, _ = self._run(samples, LEVELS[0])
        first = [mixed(kinds).samples[0], *samples[1:]] if kinds else samples
        with self.trials.run(), FixedRandomness(LEVELS[0]):
            try:
                self.gradients(first)
            except DplitError:
                raise
            except Exception:  # no batch that the model takes
                self.gradients(samples)
            seed_all(0, self.trials.state.generators.values())
            after = self.gradients(samples)
        for i in range(len(samples)):
            compare(
                i,
                gradient_of(before, i),
                gradient_of(after, i),
                self._allowed(before),
                "when other examples went before it",
            )

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run(self, chosen: Sequence[Sample], level: float | None, seed: int = 0) -> _Result:
        randomness = FixedRandomness(only=COUNTS_ITS_DRAWS) if level is None else FixedRandomness(level)
        generators = self.trials.state.generators.values()
        with self.trials.run(seed):
            drawn = numbers_drawn(generators)
            with randomness:
                result = self.gradients(chosen)
            return _Result(result, drawn == numbers_drawn(generators))

    def _same(
        self,
        samples: Sequence[Sample],
        others: Sequence[Sample],
        staying: Sequence[int],
        level: float | None,
        when: str,
        seed: int = 0,
        may_fail: bool = False,
    ) -> bool:
        """Check that the gradients of the samples that stay in their places are the same in both batches.

        All are compared at once, by their norms and one weighted sum; only if these differ one by one, so that no two batches
        are held. Returns whether both could be computed.
        """
        if not staying:
            return True
        weights, summary, allowed = self._first(samples, staying, level, seed)
        try:
            other = _summary(self._run(others, level, seed).gradients, staying, weights)
        except DplitError:
            raise
        except Exception:
            if may_fail:
                return False
            raise
        for i in staying if _differs(summary, other, allowed) else ():
            before = gradient_of(self._run(samples, level, seed).gradients, i)
            after = gradient_of(self._run(others, level, seed).gradients, i)
            self._check_repeatable(samples, level, seed, i, before, allowed)
            compare(i, before, after, allowed, when)
        return True

    def _check_repeatable(
        self,
        samples: Sequence[Sample],
        level: float | None,
        seed: int,
        i: int,
        before: dict[str, Tensor],
        allowed: float,
    ) -> None:
        again = gradient_of(self._run(samples, level, seed).gradients, i)
        try:
            compare(i, before, again, allowed, "")
        except CoupledExamples:
            raise PrivacyError(
                "the same records give other gradients with the same seeds, so that it cannot be seen whether examples depend "
                "on one another; draw random numbers from the generators of torch, numpy or python, or from one that the module "
                "keeps"
            ) from None

    def _first(
        self, samples: Sequence[Sample], staying: Sequence[int], level: float | None, seed: int
    ) -> tuple[Tensor, _Summary, float]:
        """Return weights, summary and tolerance of the samples themselves, which are computed once."""
        key = id(samples), tuple(staying), level, seed
        if key not in self._known:
            gradients, _ = self._run(samples, level, seed)
            norms = gradients.norms()
            weights = torch.zeros_like(norms)
            index = torch.tensor(staying, device=norms.device)
            weights[index] = _signs(len(staying), norms) / norms[index]
            weights[~weights.isfinite()] = 0.0
            self._known[key] = weights, _summary(gradients, staying, weights), self._allowed(gradients)
        return self._known[key]

    def _allowed(self, gradients: PerExample) -> float:
        return max(self.tolerance, _tolerance(gradients))


class _Summary(NamedTuple):
    """What is compared of the gradients of k examples."""

    norms: Tensor
    """`(k,)`"""
    total: dict[str, Tensor]
    """Their sum, each with norm 1 and a sign; without those that are zero or not finite."""


def _summary(gradients: PerExample, staying: Sequence[int], weights: Tensor) -> _Summary:
    norms = gradients.norms()
    usable = torch.where(norms.isfinite(), weights, torch.zeros_like(weights))
    return _Summary(norms[list(staying)].double(), gradients.weighted_sum(usable))


def _signs(n: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return (2.0 * torch.randint(2, (n,), generator=generator) - 1.0).to(like)


def _differs(a: _Summary, b: _Summary, allowed: float) -> bool:
    if not torch.equal(a.norms.isfinite(), b.norms.isfinite()):
        return True
    gap, size = (a.norms - b.norms).nan_to_num().abs(), torch.maximum(a.norms, b.norms).nan_to_num()
    difference = torch.stack([(a.total[name].double() - b.total[name].double()).norm() for name in a.total]).norm()
    return bool((gap > allowed * size).any()) or not bool(difference <= allowed)


def gradient_of(gradients: PerExample, i: int) -> dict[str, Tensor]:
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


def compare(i: int, before: dict[str, Tensor], after: dict[str, Tensor], tolerance: float, when: str) -> bool:
    """Return whether two gradients of example i could be compared: both are finite, and one is not zero.

    Raises:
        CoupledExamples: they differ by more than the tolerance times the larger norm, or one is finite where the other is not.
    """
    finite = [{name for name, g in gradient.items() if bool(g.isfinite().all())} for gradient in (before, after)]
    for name in finite[0] ^ finite[1]:
        raise CoupledExamples(
            f"the gradient of example {i} changes {when}: in {name} it is finite in one case and not in the other; {REMEDY}"
        )
    difference = {
        name: float((before[name].double() - after[name].double()).norm()) for name in after if name in finite[0]
    }
    size = max(_norm(before[name] for name in difference), _norm(after[name] for name in difference))
    if size == 0:
        return False
    worst = max(difference, key=lambda name: difference[name])
    if difference[worst] > tolerance * size:
        raise CoupledExamples(
            f"the gradient of example {i} changes {when}: by {difference[worst] / size:.2g} of its norm, most in {worst}; "
            f"{REMEDY}"
        )
    return True


REMEDY = (
    "return losses of shape (n,), use no batch statistics (BatchNorm, means over the batch's tokens, in-batch negatives), "
    "and keep constants such as position ids in buffers"
)


def _norm(gradients: Iterable[Tensor]) -> float:
    norms = [g.double().norm() for g in gradients]
    return float(torch.stack(norms).norm()) if norms else 0.0
