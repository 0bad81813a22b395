"""One private fit: it takes draws, one after the other, and releases a noisy gradient for each."""

from __future__ import annotations

from lightning.pytorch import Trainer
from torch import Tensor

from dplit.errors import PrivacyError
from dplit.sampling.draws import Draw
from dplit.sampling.poisson import PoissonBatches
from dplit.training.checks.loader import TrainLoader
from dplit.training.physical_batches import PhysicalBatches, StepArguments
from dplit.training.probing import check_coupling, find_physical_batch_size
from dplit.training.run_record import RunRecord
from dplit.training.setup import FitPlan
from dplit.training.step import PrivateStep


class PrivateFit:
    """What a strategy holds while it trains, and after it, until the next fit begins.

    Args:
        trainer: of the fit.
        plan: its public constants.
        step: adds up and releases.
        batches: takes physical batches through the model.
        train: the loader that draws as the plan says.
        record: notes what leaves.
        training_logs: whether what `training_step` logs is kept; its mean loss, too.
        find_size: whether the physical batch size is to be found by trial before the first release.
        memory_limit: GiB that the trial may take; None for what is free.
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
    ) -> None:
        self.trainer = trainer
        self.plan = plan
        self.step = step
        self.batches = batches
        self.train = train
        self.record = record
        self.training_logs = training_logs
        self.find_size = find_size
        self.memory_limit = memory_limit
        self._probed = False
        self._last_draw: Draw | None = None

    @property
    def physical_batch_size(self) -> int:
        """Most rows that go through the model at one time."""
        return self.train.collate.max_rows

    @property
    def exhausted(self) -> bool:
        """Whether one more release would pass the target."""
        return self.step.releases == 0

    def take(self, draw: object, given: StepArguments) -> Tensor:
        """Run the model on each physical batch of a draw and add up the clipped gradients.

        Args:
            draw: what the train loader gave.
            given: what the trainer passes to `training_step` beside it.

        Returns:
            The mean loss of the draw, detached: what callbacks see, un-noised; 0 for an empty draw or without
            `training_logs`.

        Raises:
            PrivacyError: something that is no draw, a draw made otherwise than it is charged, or one taken twice.
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
        if not self._probed:
            self._probe(given)
        loss = self.batches.add(draw, self.step, given)
        self._follow_backend()
        self.record.logged_by_training(self.trainer._results, keep=self.training_logs)
        return loss if self.training_logs else loss.new_zeros(())

    def release(self) -> None:
        """Release the noisy gradient of the draw that was taken; where the target allows no further one, stop training.

        Raises:
            BudgetExhausted: the target would be passed; nothing was charged or released.
        """
        self.step.release()
        if self.exhausted:
            self.trainer.should_stop = True

    def _follow_backend(self) -> None:
        """Cut the next draws as the backend takes them, and say which it is, where `grads="auto"` has changed it."""
        limit = self.batches.max_rows
        if limit is not None and self.train.collate.max_rows > limit:
            self.train.collate.max_rows = limit
        self.batches.auto.say()

    def _probe(self, given: StepArguments) -> None:
        """Look at real records once, before the first release; nothing of it is logged."""
        check_coupling(self.batches, self.train, given)
        if self.find_size:
            policy = self.plan.policy
            self.train.collate.max_rows = find_physical_batch_size(
                self.batches, self.train, policy, given, self.memory_limit
            )
            self.record.other_releases.add("physical batch size: chosen by the memory that long records take, printed")
        self._probed = True
        self.record.logged_by_training(self.trainer._results, keep=False)


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
