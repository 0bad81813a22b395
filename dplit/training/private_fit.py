"""One private fit: it takes draws, one after the other, and releases a noisy gradient for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from lightning.pytorch import Trainer
from torch import Tensor

from dplit.errors import PrivacyError
from dplit.grads.vmap import logging_held_back
from dplit.privacy import Record, Target, steps_within
from dplit.sampling.draws import Draw
from dplit.sampling.poisson import PoissonBatches
from dplit.training.checks import spending
from dplit.training.checks.collate import check_collation
from dplit.training.checks.loader import TrainLoader
from dplit.training.checks.model import FixedNorms, check_norms
from dplit.training.physical_batches import PhysicalBatches, StepArguments
from dplit.training.probing import Probes, certify, choose_backend, find_physical_batch_size, with_layout
from dplit.training.run_record import RunRecord
from dplit.training.setup import FitPlan
from dplit.training.state_guard import StateGuard
from dplit.training.step import PrivateStep
from dplit.training.stepped import idle_frozen


class PrivateFit:
    """What a strategy holds while it trains, and after it, until the next fit begins.

    Args:
        trainer: of the fit.
        plan: its public constants.
        step: adds up and releases.
        batches: takes physical batches through the model.
        train: the loader that draws as the plan says.
        record: notes what leaves.
        training_logs: whether the mean loss of a draw is told; what `training_step` logs is the record's to let out.
        find_size: whether the physical batch size is to be found by trial before the first release.
        memory_limit: GiB that the trial may take; None for what is free.
        scratch: names of what may take any value in a step, and is put back after every physical batch.
    """

    def __init__(
        self,
        trainer: Trainer,
        plan: FitPlan,
        step: PrivateStep,
        batches: PhysicalBatches,
        train: TrainLoader,
        record: RunRecord,
        *,
        training_logs: bool = True,
        find_size: bool = False,
        memory_limit: float | None = None,
        scratch: Sequence[str] = (),
    ) -> None:
        self.guard = StateGuard(batches.module, scratch)
        self.probes = Probes(batches, train, self.guard.trials)
        self.trainer = trainer
        self.plan = plan
        self.step = step
        self.batches = batches
        self.train = train
        self.record = record
        self.training_logs = training_logs
        self.find_size = find_size
        self.memory_limit = memory_limit
        check_rates(step, train.sampler)
        self._last_draw: Draw | None = None
        self._before = spending.fingerprints([*step.module.parameters(), *step.module.buffers()])
        self._fixed_norms: FixedNorms | None = None

    @property
    def physical_batch_size(self) -> int:
        """Most rows that go through the model at one time."""
        return self.train.collate.max_rows

    @property
    def exhausted(self) -> bool:
        """Whether one more release would pass the target."""
        return self.step.releases == 0

    def planned(self, steps: float) -> Record:
        """Return what the fit is planned to release: at most this many steps, none if their number is not finite."""
        within = [n for n in (steps, self.step.releases) if n is not None and math.isfinite(n)]
        return Record(self.step.event, max(0, int(min(within, default=0))), "train", self.step.unit)

    def count_with(self, split: str) -> None:
        """Leave fewer steps where a statistic was released of records that are trained on, too."""
        ledger, noise = self.step.ledger, self.plan.noise
        if self.step.releases is not None and isinstance(noise, Target) and ledger.splits.may_share("train", split):
            self.step.releases = steps_within(noise, self.step.event, ledger)
            self.trainer.should_stop |= self.exhausted

    def remember(self, tensors: Iterable[object]) -> None:
        """Remember what training changed in parameters, so that it is known again under another ledger, wherever it is."""
        now = spending.fingerprints(tensor for tensor in tensors if isinstance(tensor, Tensor))
        spending.remember_values(now - self._before, self.step.ledger.run_id)
        spending.remember_spending(self.step.ledger)

    def trained_alone(self) -> AbstractContextManager[None]:
        """Return a context in which the parameters that no optimizer steps on are frozen."""
        return idle_frozen(self.batches.module, self.trainer.optimizers)

    def take(self, draw: object, given: StepArguments) -> Tensor:
        """Run the model on each physical batch of a draw and add up the clipped gradients.

        Args:
            draw: what the train loader gave.
            given: what the trainer passes to `training_step` beside it.

        Returns:
            The mean loss of the draw, detached, un-noised; 0 for an empty draw or without `training_logs`.

        Raises:
            PrivacyError: something that is no draw, a draw made otherwise than it is charged, or one taken twice; or a layer
                normalises by statistics of the batch.
        """
        if not isinstance(draw, Draw):
            raise PrivacyError(
                f"training_step got a {type(draw).__name__}, not a Poisson draw; the loader was replaced"
            )
        check_draw(draw, self.train.sampler, self.trainer)
        if draw is self._last_draw:
            raise PrivacyError("the optimizer evaluated its closure twice in one step; use one that does so once")
        self._last_draw = draw
        self.step.begin()
        self._fix_norms()
        with self.trained_alone():
            with self.record.figures.silence():
                looked = self._probe(given)
            with self.guard.draw(judge_anew=looked), self.record.figures.step("training_step"):
                loss = self.batches.add(draw, self.step, given, self.guard.physical_batch)
        self._follow_backend()
        check_norms(self.batches.module)
        self.record.note_python_reads(self.batches.proof.harmless.lines())
        self.record.other_releases.update(
            f"{name}: metric, exact, kept by training_step" for name in self.guard.metrics
        )
        return loss if self.training_logs else loss.new_zeros(())

    def release(self) -> None:
        """Release the noisy gradient of the draw that was taken; where the target allows no further one, stop training.

        Raises:
            BudgetExhausted: the target would be passed; nothing was charged or released.
        """
        with self.trained_alone():
            self.step.release()
        if self.exhausted:
            self.trainer.should_stop = True

    def _follow_backend(self) -> None:
        """Cut the next draws as the backend takes them, and say which it is, where `grads="auto"` has changed it."""
        limit = self.batches.max_rows
        if limit is not None and self.train.collate.max_rows > limit:
            self.train.collate.max_rows = limit
        self.batches.auto.say()

    def _fix_norms(self) -> None:
        """Hold norms in eval mode that are in it now that the first draw is taken, after every hook at the fit's start."""
        self._fixed_norms = self._fixed_norms or FixedNorms(self.batches.module)
        self._fixed_norms.hold()
        check_norms(self.batches.module)

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Run the model a second time within a step, without a trace beside its gradients."""
        silence, unlogged = self.record.figures.silence(), logging_held_back(self.batches.module)
        with silence, unlogged, self.guard.trials_within().run():
            yield

    def _probe(self, given: StepArguments) -> bool:
        """Look at real records before the first release, and again when it is time to; return whether it was."""
        first = not self.probes.done
        if first:
            check_collation(self.train)
            self.batches = self.probes.batches = with_layout(self.batches, self.train, self.guard.trials)
            self.batches.proof.unseen = self._unseen
            choose_backend(self.batches, self.train, given, self.guard.trials)
            certify(self.batches, self.train, given, self.guard.trials)
        looked = self.probes.before_draw(given, self.trainer.current_epoch)
        if first and self.find_size:
            policy = self.plan.policy
            self.train.collate.max_rows = find_physical_batch_size(
                self.batches, self.train, policy, given, self.memory_limit, self.guard.trials
            )
            self.record.other_releases.add("physical batch size: chosen by the memory that long records take, printed")
        return looked


def check_rates(step: PrivateStep, sampler: PoissonBatches) -> None:
    """Refuse a sampler that draws at other rates by group than the step charges.

    Raises:
        PrivacyError: the policy's rates by group are not those that the loader was made with.
    """
    drawn, charged = [rate for _, rate in sampler.strata], step.rates
    if drawn != charged:
        raise PrivacyError(
            f"records are drawn at the rates {', '.join(f'{q:g}' for q in drawn)}, but {type(step.policy).__name__} is charged "
            f"at {', '.join(f'{q:g}' for q in charged)}; a policy's rates by group must not change"
        )


def check_draw(draw: Draw, sampler: PoissonBatches, trainer: Trainer) -> None:
    """Refuse a draw that was not made as the ledger charges it.

    Raises:
        PrivacyError: the draw is of another rate or number of records than `sampler`, by which the fit is charged, or
            draws are being merged.
    """
    if (draw.rate, draw.records) != (sampler.rate, sampler.size):
        raise PrivacyError(
            f"the train loader was reloaded and now draws {draw.records} records at rate {draw.rate:g}, but the ledger "
            f"charges {sampler.size} at {sampler.rate:g}; keep data set and batch size through a fit"
        )
    if trainer.accumulate_grad_batches != 1:
        raise PrivacyError(
            f"accumulate_grad_batches became {trainer.accumulate_grad_batches} during the fit, which merges Poisson draws; "
            "set physical_batch_size instead"
        )
