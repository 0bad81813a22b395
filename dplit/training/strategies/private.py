"""The Lightning hooks of a private strategy, whatever devices it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from dplit import noise as noise_sources
from dplit.clipping import ClippingPolicy, Flat
from dplit.errors import BudgetExhausted, ConfigurationError, PrivacyError
from dplit.grads.backends import MAX_EXAMPLES, PROBE_EXAMPLES
from dplit.grads.ownership.batch_owners import BatchOwners, Rows
from dplit.grads.ownership.harmless import Harmless
from dplit.grads.ownership.proof import Proof
from dplit.groups import GroupKey, declared, group_ids
from dplit.privacy import Gaussian, Ledger, Record, Target
from dplit.protocols import DeclaresGroups, callbacks_of, datamodule_of
from dplit.sampling.draws import Draw
from dplit.sampling.loader import poisson_loader
from dplit.sampling.poisson import Strata
from dplit.sampling.units import unit_ids, unit_name
from dplit.training import splits
from dplit.training.checks.arguments import check_arguments, check_figures, check_memory, checked_names, warn_of_delta
from dplit.training.checks.ledger import check_ledger
from dplit.training.checks.loader import poisson_train_loader
from dplit.training.checks.model import check_optimizers
from dplit.training.checks.trainer import check_counts, check_throughput, check_trainer
from dplit.training.losses import LossReduction, StepLosses
from dplit.training.outlets.closure import return_no_loss, step_output
from dplit.training.outlets.figures import Figures
from dplit.training.physical_batches import Grads, PhysicalBatches, StepArguments
from dplit.training.private_fit import PrivateFit
from dplit.training.run_record import RunRecord, Spent
from dplit.training.saved_fit import SavedFit, path_from
from dplit.training.setup import FitPlan, strata_of_policy
from dplit.training.stepped import idle_frozen, warn_of_idle


class PrivateHooks(Strategy):
    """Trains any LightningModule with differential privacy (DP-SGD).

    `Trainer(strategy=DPStrategy(...))` is all that changes: the train DataLoader becomes Poisson draws, one draw is one
    optimizer step is one ledger entry, and the optimizer sees the noised gradient only. `training_step` returns
    losses per example, shape `(n,)`, alone or under "loss" in a dict.

    This class comes first among the bases of a private strategy, so that its `super()` calls reach the strategy of
    Lightning that follows it.

    Args:
        policy: how examples are clipped; `Flat(bound=1.0)` if None.
        noise: a `Target(epsilon, delta)`, from which the noise is solved for the planned number of steps and before
            which training stops; or the noise multiplier σ (standard deviation over `policy.bound`).
        physical_batch_size: most examples that go through the model at one time. It changes memory, not the result.
            "auto" finds it by trial before the first release.
        group: where a batch keeps its group ids: key, index, or callable `batch -> (n,)` ids.
        groups: the declared, public list of groups; None takes the data module's `groups`, if it has them.
        unit: where a batch says whose each record is: key, index, or callable. Persons are drawn, with all their records,
            `batch_size` counts persons, and all that is said of a record's privacy holds for a person: the gradients of
            their records are averaged before the clip.
        loss_reduction: what a scalar that `training_step` returns is said to be, "mean" or "sum" over the examples; it is seen
            anyhow, and checked if it is said.
        noise_seed: None: from the operating system. A number is for tests, and the privacy statement says so.
        delta: δ at which ε is shown where `noise` is a number; None takes the smaller of 1e-5 and 1/(10 N).
        training_logs: False drops what `training_step` logs or hands to a logger, which is un-noised and released without
            charge.
        grads: "auto" takes the tape, torch.func for the parameters that the tape refuses, and the loop where torch.func
            cannot run the model either, and says so once; or by hand: "tape", which refuses operations without a rule;
            "vmap" (torch.func); "loop", one example at a time, whatever `physical_batch_size` is. All are exact; the last two
            build every gradient.
        memory_limit: GiB that training may take, for "auto"; None for what is free, or half of it on the CPU.
        ledger: another strategy's, to go on charging where a model is trained further without a checkpoint.
        accountant: name of what turns the ledger into an ε (`dplit.privacy.accountants`); None for the given ledger's own,
            or "prv".
        noise_source: name of where the noise comes from (`dplit.noise`).
        steered_by: names of exact figures of private records, such as "val_loss", that may decide on learning rates, on
            stopping or on the checkpoint to keep. The privacy statement says which do. Any other is refused.
        public_splits: "validation", "test", or both, where their records are free to publish: figures of them may
            steer training, and need no line in the statement.
        rows: key or index in a batch of a tensor `(m,)` that says to which example, from 0 to n - 1, each row belongs of the
            tensors with m rows: of packed sequences or the nodes of graphs.
        python_reads: places such as "model.py:31", or files, at which Python may look at values of the examples, because
            no loss follows from what it sees there; the privacy statement lists them.
        scratch: names, or patterns such as "*.attention_map", of attributes and buffers of the module that `training_step` may
            set to anything; they are put back after every physical batch. Others that take values of the records are refused.
        disjoint_splits: declare that no record (or person, with `unit`) is in two splits that are charged. Undeclared, train
            is assumed to share none with others, which the statement says, and other splits are taken to hold the same
            records unless the data module or their indices show otherwise: what they release is added up.
        engine: what Lightning passes to its own strategy.

    Raises:
        ConfigurationError: an argument out of range.
    """

    per_example_losses = True
    """Tells a module that `training_step` should return `(n,)` losses."""

    def __init__(
        self,
        policy: ClippingPolicy | None = None,
        noise: Target | float = 1.0,
        physical_batch_size: int | Literal["auto"] = 64,
        group: GroupKey | None = None,
        groups: Sequence[str] | None = None,
        unit: GroupKey | None = None,
        loss_reduction: LossReduction | None = None,
        noise_seed: int | None = None,
        delta: float | None = None,
        training_logs: bool = True,
        grads: Grads = "auto",
        memory_limit: float | None = None,
        ledger: Ledger | None = None,
        accountant: str | None = None,
        noise_source: str = "gaussian",
        steered_by: Sequence[str] = (),
        public_splits: Sequence[str] = (),
        rows: Rows = None,
        python_reads: Sequence[str] = (),
        scratch: Sequence[str] = (),
        disjoint_splits: bool = False,
        **engine: Any,
    ) -> None:
        super().__init__(**engine)
        check_arguments(noise, loss_reduction, delta, grads)
        check_memory(physical_batch_size, memory_limit)
        check_figures(steered_by, public_splits)
        if ledger is not None and accountant is not None:
            raise ConfigurationError(
                f"accountant={accountant!r} has no meaning beside a ledger, which has its own; give it to the ledger"
            )
        self.policy = policy or Flat()
        self.noise = noise
        self.noise_multiplier: float | None = None
        self.group = group
        self.groups = None if groups is None else declared(groups)
        self.unit = unit
        self.loss_reduction: LossReduction | None = loss_reduction
        self.noise_seed = noise_seed
        self.training_logs = training_logs
        self.grads: Grads = grads
        self.memory_limit = memory_limit
        self.rows = rows
        self.python_reads = checked_names("python_reads", python_reads)
        self.scratch = checked_names("scratch", scratch)
        self.disjoint_splits = disjoint_splits
        self._asked_size = physical_batch_size
        self._asked_delta = delta
        self.noise_source = noise_sources.find(noise_source)
        self._record = RunRecord(
            Ledger(accountant=accountant) if ledger is None else ledger,
            Figures(training_logs, steered_by, public_splits),
        )
        self._run_dir = Path()
        self._loaded_from = Path()
        self._phase: SavedFit | PrivateFit | None = None
        """Nothing yet; a checkpoint that was read and is to be gone on from; or the fit that runs, or ran last."""

    # -- what others ask ---------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """Everything charged so far."""
        return self._record.ledger

    @property
    def physical_batch_size(self) -> int:
        """Most examples that go through the model at one time; before "auto" has found it, what is probed with."""
        if isinstance(self._phase, PrivateFit):
            return self._phase.physical_batch_size
        return self._first_size()

    @property
    def private_fit(self) -> PrivateFit | None:
        """The fit that runs, or ran last; None before training has begun."""
        return self._phase if isinstance(self._phase, PrivateFit) else None

    @property
    def delta(self) -> float | None:
        """δ at which ε is shown, known once the data set is."""
        if isinstance(self.noise, Target):
            return self.noise.delta
        return self._asked_delta if self.private_fit is None else self.private_fit.plan.delta

    def spent(self) -> Spent | None:
        """Return what the ledger holds so far, or None before training has begun."""
        return (
            None if self.private_fit is None else Spent.of(self.ledger, self.private_fit.plan.delta, self.groups or ())
        )

    def noise_std(self) -> float:
        """Return the standard deviation of the noise in each coordinate of the next released gradient; 0 before training.

        It is σ·bound / expected batch size, all public: the bound moves from step to step by noisy answers only.
        """
        if self.private_fit is None:
            return 0.0
        return self.private_fit.plan.noise_multiplier * self.policy.bound / self.private_fit.plan.expected_batch_size

    def release_statistic(
        self, value: Tensor, *, sensitivity: float, noise_multiplier: float, split: str = "validation"
    ) -> Tensor:
        """Charge and release a statistic of records that training does not see.

        Args:
            value: any shape; one record of the split moves it by at most `sensitivity` in L2 norm; with `unit`, one
                person's records together.
            sensitivity: that L2 bound.
            noise_multiplier: standard deviation over sensitivity.
            split: name of the records (or persons) it was computed from. Each split has its own account; accounts of splits
                that may hold the same records are added up (`disjoint_splits`).

        Returns:
            The noisy value, float64, on the CPU.

        Raises:
            PrivacyError: the split is "train", whose statistics are charged with their draw; or it was declared disjoint from
                one that it has records in common with.
            BudgetExhausted: it has records in common with train, and both together would pass the target.
        """
        if split == "train":
            raise PrivacyError("statistics of training records are charged with their draw: ask them from a policy")
        with self._record.opened(self._run_dir) as ledger:
            self._see_split(split)
            self._check_target(record := Record(Gaussian(noise_multiplier), 1, split, unit_name(self.unit)))
            ledger.record(*record)
            if self.private_fit is not None:
                self.private_fit.count_with(split)
        value = value.detach().to("cpu", torch.float64)
        source = self.noise_source(self.noise_seed, stream=split)
        release = source.release(sum(ledger.entries[split].values()))
        return value + release.like(value, noise_multiplier * sensitivity)

    def _see_split(self, split: str) -> None:
        """Tell the ledger what is seen of a split: its data sets, and what is declared of it."""
        trainer = None if self.lightning_module is None else self.lightning_module._trainer
        if trainer is not None:
            unit = unit_name(self.unit)
            splits.declare(self.ledger, trainer, self.disjoint_splits, unit)
            splits.see(self.ledger, split, splits.evaluated(trainer, split), unit)

    def _check_target(self, record: Record) -> None:
        """Refuse a statistic of training records that would pass the target with the steps taken so far."""
        if not isinstance(self.noise, Target) or not self.ledger.splits.may_share("train", record.split):
            return
        after = self.ledger.copied()
        after.record(*record)
        if after.epsilon(self.noise.delta).upper > self.noise.epsilon:
            raise BudgetExhausted(
                f"{record.split} and train have records in common, and with another statistic of them {self.noise} would be "
                "passed; take other records, release fewer, or raise the target"
            )

    # -- before training ---------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer) -> None:
        """Refuse what would void the guarantee, then set up as usual."""
        check_counts(callbacks_of(trainer), self.unit)
        self._run_dir = Path(trainer.log_dir or trainer.default_root_dir)
        self._record.figures.attach(trainer)
        fitting = trainer.state.fn == "fit"
        if fitting:
            self._learn_groups(trainer)
            check_trainer(trainer, self.precision_plugin)
        super().setup(trainer)
        if fitting:
            check_optimizers(self.optimizers, self._module)
            self._record.figures.check_steering(trainer)
            return_no_loss(trainer)
            if isinstance(self._phase, SavedFit):
                saved, self._phase = self._phase, None
                self._resume(saved)
            elif trainer.num_sanity_val_steps:
                # In the sanity check a train loader that someone asks for could not be told from one of validation.
                trainer.fit_loop.setup_data()

    @override
    def process_dataloader(self, dataloader: object) -> object:
        """Turn the train loader into Poisson draws; leave validation, test and predict loaders as they are."""
        module = self.lightning_module
        if module is None or module.trainer.state.fn != "fit" or module.trainer.state.stage != "train":
            return dataloader
        unit = None if self.unit is None else partial(unit_ids, key=self.unit)
        return poisson_loader(dataloader, self._first_size(), self._strata, unit)

    @override
    def on_train_start(self) -> None:
        """Check the loader, open the journal, solve the noise.

        Raises:
            BudgetExhausted: the target is spent already.
        """
        module, trainer = self._module, self._module.trainer
        train = poisson_train_loader(trainer)
        check_throughput(callbacks_of(trainer), Draw((), train.sampler.rate, train.sampler.size))
        asked = self.noise.delta if isinstance(self.noise, Target) else self._asked_delta
        delta = min(1e-5, 1 / (10 * train.sampler.size)) if asked is None else asked
        warn_of_delta(delta, train.sampler.size)
        self._record.open(self._run_dir)
        unit = unit_name(self.unit)
        check_ledger(module, self.policy, self.ledger, unit)
        splits.declare(self.ledger, trainer, self.disjoint_splits, unit)
        splits.see(self.ledger, "train", [train.loader.dataset], unit)
        planned_steps = trainer.estimated_stepping_batches
        plan = FitPlan.of(
            self.policy,
            self.noise,
            self.noise_multiplier,
            train.sampler,
            planned_steps,
            self.ledger.accountant,
            delta=delta,
            unit=unit,
            noise_source=self.noise_source(self.noise_seed),
        )
        self.noise_multiplier = plan.noise_multiplier
        warn_of_idle(module, self.optimizers)
        with idle_frozen(module, self.optimizers):
            step = plan.private_step(module, self.ledger)
        fit = PrivateFit(
            trainer,
            plan,
            step,
            self._physical_batches(module),
            train,
            self._record,
            training_logs=self.training_logs,
            find_size=self._asked_size == "auto",
            memory_limit=self.memory_limit,
            scratch=self.scratch,
        )
        self._phase = fit
        self._record.describe(plan)
        self._record.begin(self._run_dir, trainer, fit.planned(planned_steps - trainer.global_step))
        if fit.exhausted:
            raise BudgetExhausted(f"{self.noise} is spent already; no further step can be taken")

    def _physical_batches(self, module: LightningModule) -> PhysicalBatches:
        return PhysicalBatches(
            module,
            self.precision_plugin,
            self.root_device,
            grads=self.grads,
            group=self.group,
            groups=self.groups or (),
            unit=self.unit,
            losses=StepLosses(self.loss_reduction),
            proof=Proof(BatchOwners(rows=self.rows), Harmless(self.python_reads)),
        )

    def _first_size(self) -> int:
        engine = "tape" if self.grads == "auto" else self.grads
        size = PROBE_EXAMPLES[engine] if self._asked_size == "auto" else self._asked_size
        return min(size, MAX_EXAMPLES.get(engine, size))

    def _strata(self, rate: float, loader: DataLoader[Any]) -> Strata | None:
        """Return where each rate holds, if the policy has rates by group; refuse a person in two groups."""
        if self.group is None:
            return None
        return strata_of_policy(self.policy, rate, loader, partial(group_ids, key=self.group, groups=self.groups or ()))

    def _learn_groups(self, trainer: Trainer) -> None:
        """Take groups and group key from the data module where the strategy was given none."""
        data = datamodule_of(trainer)
        if self.groups is None:
            self.groups = declared(getattr(data, "groups", None) or ())
        if self.group is None:
            self.group = data.group_key if isinstance(data, DeclaresGroups) else "group"
        self.policy.declare(self.groups)

    def _resume(self, saved: SavedFit) -> None:
        saved.restore_policy(self.policy)
        self._record.restore(saved, self._loaded_from)
        self.noise_multiplier = float(saved.noise_multiplier)

    # -- one step ----------------------------------------------------------------------------------------------------

    @override
    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Move a batch; a draw's physical batches are moved one by one as they are used."""
        return batch if isinstance(batch, Draw) else super().batch_to_device(batch, device, dataloader_idx)

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the module's training step on each physical batch of the draw and add up the clipped gradients.

        Returns:
            The loss 0, which is all that the optimizer, its closure and `on_before_backward` get; and beside it the mean
            loss of the draw, detached and un-noised, for `on_train_batch_end`: 0 for an empty draw or without
            `training_logs`.
        """
        draw, *rest = args
        return step_output(self._running_fit.take(draw, StepArguments(rest, kwargs)))

    @override
    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's validation step; what it hands to a logger is listed, or dropped where the split is charged."""
        with self._record.figures.step("validation_step"):
            return super().validation_step(*args, **kwargs)

    @override
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """As for validation."""
        with self._record.figures.step("test_step"):
            return super().test_step(*args, **kwargs)

    @override
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Release the noisy gradient in place of a backward pass."""
        closure_loss = self.precision_plugin.pre_backward(closure_loss, self._module)
        self._running_fit.release()
        return self.precision_plugin.post_backward(closure_loss, self._module)

    # -- checkpoints and the end -------------------------------------------------------------------------------------

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Save with the ledger, the policy's thresholds and the noise multiplier inside."""
        journal = self.ledger.journal
        if journal is not None and self.noise_multiplier is not None:
            SavedFit(
                ledger=self.ledger.state_dict(),
                journal=str(journal.path.resolve()),
                policy_name=type(self.policy).__name__,
                policy=self.policy.state_dict(),
                noise_multiplier=self.noise_multiplier,
                unit=unit_name(self.unit),
                beside=path_from(filepath, journal.path),
            ).write(checkpoint)
            if self.private_fit is not None:
                self.private_fit.remember(checkpoint.get("state_dict", {}).values())
        super().save_checkpoint(checkpoint, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load; a fit that resumes takes the ledger along.

        Raises:
            JournalError: the checkpoint to resume from has no ledger.
        """
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        if self._module.trainer.state.fn == "fit":
            self._phase, self._loaded_from = SavedFit.read(checkpoint, checkpoint_path), Path(checkpoint_path)
        return checkpoint

    @override
    def teardown(self) -> None:
        """Leave the privacy statement and close the journal."""
        if self.private_fit is not None and self._module.trainer.state.fn == "fit":
            self.private_fit.remember(self._module.parameters())
        self._record.finish(self._run_dir, self._module.trainer)
        super().teardown()

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def _running_fit(self) -> PrivateFit:
        if not isinstance(self._phase, PrivateFit):
            raise PrivacyError("no private fit has begun; the trainer's hooks were called out of order")
        return self._phase
