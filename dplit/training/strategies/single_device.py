"""`DPStrategy`: Lightning's hooks around a private step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from dplit.clipping import ClippingPolicy, Flat
from dplit.errors import BudgetExhausted, ConfigurationError, PrivacyError
from dplit.grads.backends import BACKENDS, MAX_EXAMPLES, PROBE_EXAMPLES, joined
from dplit.grads.coupling.probe import ROUGH, examine
from dplit.grads.per_example import PerExample
from dplit.groups import GroupKey, declared, group_ids
from dplit.noise import GaussianNoise
from dplit.privacy import Gaussian, Ledger, Target
from dplit.protocols import fetch_samples
from dplit.sampling.draws import Draw, PhysicalBatch, PhysicalCollate
from dplit.sampling.loader import check_owners, poisson_loader
from dplit.sampling.poisson import PoissonBatches, Strata
from dplit.sampling.units import group_of_units, single_records, unit_ids, unit_name
from dplit.training.checkpoint_io import AtomicCheckpointIO
from dplit.training.checks.arguments import check_arguments, warn_of_delta
from dplit.training.checks.ledger import check_ledger, check_policy, remember_unit, restorable
from dplit.training.checks.loader import check_draw, poisson_train_loader
from dplit.training.checks.model import check_optimizers, losses_per_example
from dplit.training.checks.trainer import check_counts, check_trainer
from dplit.training.memory import batch_size_finder
from dplit.training.physical_batches import Intake
from dplit.training.run_record import RunRecord, Spent
from dplit.training.setup import describe, private_step, solve, stratified
from dplit.training.step import PrivateStep


class DPStrategy(SingleDeviceStrategy):
    """Trains any LightningModule with differential privacy (DP-SGD) on one device.

    `Trainer(strategy=DPStrategy(...))` is all that changes: the train DataLoader becomes Poisson draws, one draw is one
    optimizer step is one ledger entry, and the optimizer sees the noised gradient only. `training_step` returns
    losses per example, shape `(n,)`, alone or under "loss" in a dict.

    Args:
        policy: how examples are clipped; `Flat(bound=1.0)` if None.
        noise: a `Target(epsilon, delta)`, from which the noise is solved for the planned number of steps and before
            which training stops; or the noise multiplier σ (standard deviation over `policy.bound`).
        physical_batch_size: most examples that go through the model at one time. It changes memory, not the result.
            "auto" finds it by trial before the first release (`dplit.training.memory.batch_size_finder.find`).
        group: where a batch keeps its group ids: key, index, or callable `batch -> (n,)` ids.
        unit: where a batch says whose each record is: key, index, or callable. Persons are drawn, with all their records,
            `batch_size` counts persons, and all that is said of a record's privacy holds for a person: the gradients of
            their records are averaged before the clip.
        groups: the declared, public list of groups; None takes the data module's `groups`, if it has them.
        loss_reduction: "mean" or "sum" for modules whose `training_step` returns a scalar.
        noise_seed: None: from the operating system. A number is for tests, and the privacy statement says so.
        delta: δ at which ε is shown where `noise` is a number; None takes the smaller of 1e-5 and 1/(10 N).
        training_logs: False drops what `training_step` logs, which is un-noised and released without charge.
        grads: "tape"; "vmap" (torch.func) for models with operations the tape refuses; or "loop", one example at a time,
            whatever `physical_batch_size` is, for every other. All are exact; the last two build every gradient.
        memory_limit: GiB that training may take, for "auto"; None for what is free, or half of it on the CPU.
        ledger: another strategy's, to go on charging where a model is trained further without a checkpoint.
        device, accelerator, checkpoint_io, precision_plugin: as Lightning passes them.

    Raises:
        ConfigurationError: an argument out of range.
    """

    strategy_name = "dp"
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
        loss_reduction: Literal["mean", "sum"] | None = None,
        noise_seed: int | None = None,
        delta: float | None = None,
        training_logs: bool = True,
        grads: Literal["tape", "vmap", "loop"] = "tape",
        memory_limit: float | None = None,
        ledger: Ledger | None = None,
        device: Any = "cpu",
        accelerator: Any = None,
        checkpoint_io: Any = None,
        precision_plugin: Any = None,
    ) -> None:
        super().__init__(device, accelerator, checkpoint_io or AtomicCheckpointIO(), precision_plugin)
        check_arguments(noise, loss_reduction, delta, grads)
        batch_size_finder.check(physical_batch_size, memory_limit)
        self.policy = policy or Flat()
        self.noise = noise
        self.grads = grads
        self.memory_limit = memory_limit
        self._finds_size = physical_batch_size == "auto"
        first = PROBE_EXAMPLES[grads] if physical_batch_size == "auto" else physical_batch_size
        self.physical_batch_size = min(first, MAX_EXAMPLES.get(grads, first))
        self.group = group
        self.groups = None if groups is None else declared(groups)
        self.unit = unit
        self.loss_reduction = loss_reduction
        self.noise_seed = noise_seed
        self.training_logs = training_logs
        self.noise_multiplier: float | None = None
        self._run_record = RunRecord(ledger)
        self._delta = delta
        self._records: int | None = None
        self._step: PrivateStep | None = None
        self._restored: Mapping[str, Any] | None = None
        self._probed = False
        self._consumed: Draw | None = None
        self._devices: list[torch.device] | None = None

    @property
    def ledger(self) -> Ledger:
        """Everything charged so far."""
        return self._run_record.ledger

    # -- before training ---------------------------------------------------------------------------------------

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The devices the trainer chose: one."""
        return self._devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        if devices and len(devices) > 1:
            raise ConfigurationError(f"DPStrategy trains on one device, got {len(devices)}; set Trainer(devices=1)")
        if devices:
            self._devices, self._root_device = devices, torch.device(devices[0])

    @override
    def setup(self, trainer: pl.Trainer) -> None:
        """Refuse what would void the guarantee, then set up as usual."""
        check_counts(trainer.callbacks, self.unit)  # type: ignore[attr-defined]
        if trainer.state.fn == "fit":
            if self._finds_size:
                self.physical_batch_size = MAX_EXAMPLES.get(self.grads, PROBE_EXAMPLES[self.grads])
            self._learn_groups(trainer)
            check_trainer(trainer, self.precision_plugin)
        super().setup(trainer)
        if trainer.state.fn == "fit":
            check_optimizers(self.optimizers, self.lightning_module)
            self._resume()

    @override
    def process_dataloader(self, dataloader: object) -> object:
        """Turn the train loader into Poisson draws; leave validation, test and predict loaders as they are."""
        module = self.lightning_module
        if module is None or module.trainer.state.fn != "fit" or module.trainer.state.stage != "train":
            return dataloader
        unit = None if self.unit is None else partial(unit_ids, key=self.unit)
        return poisson_loader(dataloader, self.physical_batch_size, self._strata, unit)

    def _strata(self, rate: float, loader: DataLoader[Any]) -> Strata | None:
        """Return where each rate holds, if the policy has rates by group; refuse a person in two groups."""
        if self.group is None:
            return None
        return stratified(self.policy, rate, loader, partial(group_ids, key=self.group, groups=self.groups or ()))

    @override
    def on_train_start(self) -> None:
        """Check the loader, open the journal, solve the noise."""
        trainer = self._trainer
        loader = poisson_train_loader(trainer)
        sampler: PoissonBatches = loader.batch_sampler  # type: ignore[assignment]
        self._records, self._probed = sampler.size, False
        warn_of_delta(self.delta, sampler.size)
        self._run_record.open(self._run_dir)
        check_ledger(self.lightning_module, self.policy, self.ledger, unit_name(self.unit))
        if self.noise_multiplier is None or not isinstance(self.noise, Target):
            self.noise_multiplier = solve(self.noise, self.policy, sampler.rate, trainer.estimated_stepping_batches)
        sigma, module = self.noise_multiplier, self.lightning_module
        assert module is not None
        self._step = private_step(module, self.policy, self.noise, sigma, sampler, self.ledger, self.noise_seed)
        if self.noise_seed is not None:
            self.ledger.note(f"the noise seed was fixed ({self.noise_seed}): whoever knows it can subtract the noise")
        assert self.delta is not None
        unit = unit_name(self.unit)
        self._run_record.facts = describe(self.policy, self.noise, sigma, sampler, self.ledger, self.delta, unit)
        self._run_record.state(self._run_dir, trainer)
        if self._step.releases == 0:
            raise BudgetExhausted(f"{self.noise} is spent already; no further step can be taken")

    def _learn_groups(self, trainer: pl.Trainer) -> None:
        data = getattr(trainer, "datamodule", None)
        if self.groups is None:
            self.groups = declared(getattr(data, "groups", None) or ())
        if self.group is None:
            self.group = getattr(data, "group_key", "group")
        self.policy.declare(self.groups)

    def _resume(self) -> None:
        if self._restored is not None:
            check_policy(self._restored["policy_name"], self.policy)
            self._run_record.resume(self._restored)
            remember_unit(self.ledger, self._restored.get("unit"))
            self.policy.load_state_dict(self._restored["policy"])
            self.noise_multiplier = float(self._restored["noise_multiplier"])
            self._restored = None

    # -- one step ----------------------------------------------------------------------------------------------

    @override
    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Move a batch; a draw's physical batches are moved one by one as they are used."""
        return batch if isinstance(batch, Draw) else super().batch_to_device(batch, device, dataloader_idx)

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the module's training step on each physical batch of the draw and add up the clipped gradients.

        Returns:
            The mean loss of the draw, detached: what callbacks see, un-noised; 0 for an empty draw or without
            `training_logs`.
        """
        draw, *rest = args
        if not isinstance(draw, Draw) or self._step is None:
            raise PrivacyError(
                f"training_step got a {type(draw).__name__}, not a Poisson draw; the loader was replaced"
            )
        check_draw(draw, self._step.rate, self._records, self._trainer)
        if draw is self._consumed:
            raise PrivacyError("the optimizer evaluated its closure twice in one step; use one that does so once")
        self._consumed = draw
        self._step.begin()
        if not self._probed:
            self._probe(rest)
        intake = Intake(
            self._step, self._placed, lambda *some: self._gradients(*some, rest, kwargs), self._ids, self.root_device
        )
        losses = [intake.add(part) for part in draw.parts]
        self._run_record.logged_by_training(self._trainer._results, keep=self.training_logs)
        if not losses or not self.training_logs:
            return torch.zeros((), device=self.root_device)
        return torch.stack(losses).sum() / draw.size

    @override
    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Release the noisy gradient in place of a backward pass."""
        module, trainer = self.lightning_module, self._trainer
        assert module is not None
        assert self._step is not None
        closure_loss = self.precision_plugin.pre_backward(closure_loss, module)
        self._step.release()
        closure_loss = self.precision_plugin.post_backward(closure_loss, module)
        if self._step.releases == 0:
            trainer.should_stop = True
        return closure_loss

    def _ids(self, batch: Any, part: PhysicalBatch) -> Tensor | None:
        if self.group is None or not self.policy.needs_groups:
            return None
        return group_of_units(group_ids(batch, self.group, self.groups or ()), part.owner)

    def _placed(self, part: PhysicalBatch) -> Any:
        check_owners(part, self.unit)
        return super().batch_to_device(self.precision_plugin.convert_input(part.batch))

    def _gradients(self, batch: Any, size: int, *given: Any) -> Iterator[tuple[Tensor, PerExample]]:
        if self._trainer._results is not None:
            self._trainer._results.batch, self._trainer._results.batch_size = batch, size
        return BACKENDS[self.grads](self.lightning_module, lambda one, n: self._losses(one, n, *given), batch, size)  # type: ignore[arg-type]

    def _losses(self, batch: Any, size: int, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        output = super().training_step(batch, *rest, **kwargs)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        return losses_per_example(loss, size, self.loss_reduction)

    def _probe(self, rest: Sequence[Any]) -> None:
        loader = poisson_train_loader(self._trainer)
        collate: PhysicalCollate = loader.collate_fn  # type: ignore[assignment]

        def parts(samples: Sequence[Any]) -> Iterator[tuple[Tensor, PerExample]]:
            step = MAX_EXAMPLES.get(self.grads, len(samples))
            for few in (samples[i : i + step] for i in range(0, len(samples), step)):
                batch = self.precision_plugin.convert_input(collate.collate(list(few)))
                yield from self._gradients(super(DPStrategy, self).batch_to_device(batch), len(few), rest, {})

        module: Any = self.lightning_module
        single = single_records(loader.dataset)
        size = len(single)
        rough = self.grads != "tape" and isinstance(self.precision_plugin, MixedPrecision)
        for _ in range(2):
            chosen = np.random.default_rng().choice(size, min(PROBE_EXAMPLES[self.grads], size), replace=False).tolist()
            examine(module, lambda some: joined(parts(some)), fetch_samples(single, chosen), ROUGH if rough else 0)
        if self._finds_size:
            limits = MAX_EXAMPLES.get(self.grads), self.memory_limit
            found = batch_size_finder.find(module, parts, self.policy, loader, self.root_device, *limits)
            self.physical_batch_size = collate.most = found
            self._run_record.said.add("physical batch size: chosen by the memory that long records take, printed")
        self._probed = True
        self._run_record.logged_by_training(self._trainer._results, keep=False)

    # -- what leaves -------------------------------------------------------------------------------------------

    @property
    def delta(self) -> float | None:
        """δ at which ε is shown, known once the data set is."""
        if isinstance(self.noise, Target):
            return self.noise.delta
        if self._delta is None and self._records is not None:
            return min(1e-5, 1 / (10 * self._records))
        return self._delta

    def spent(self) -> Spent | None:
        """Return what the ledger holds so far, or None before training has begun."""
        if self.delta is None or self._step is None:
            return None
        return Spent.of(self.ledger, self.delta, self.groups or ())

    def noise_std(self) -> float:
        """Return the standard deviation of the noise in each coordinate of the next released gradient; 0 before training.

        It is σ·bound / expected batch size, all public: the bound moves from step to step by noisy answers only.
        """
        if self._step is None or self.noise_multiplier is None:
            return 0.0
        return self.noise_multiplier * self.policy.bound / self._step.expected_batch_size

    def release_statistic(
        self, value: Tensor, *, sensitivity: float, noise_multiplier: float, split: str = "validation"
    ) -> Tensor:
        """Charge and release a statistic of records that training does not see.

        Args:
            value: any shape; one record of the split moves it by at most `sensitivity` in L2 norm; with `unit`, one
                person's records together.
            sensitivity: that L2 bound.
            noise_multiplier: standard deviation over sensitivity.
            split: the disjoint set of records (or persons) it was computed from; each split has its own account.

        Returns:
            The noisy value, float64, on the CPU.
        """
        if split == "train":
            raise PrivacyError("statistics of training records are charged with their draw: ask them from a policy")
        with self._run_record.opened(self._run_dir) as ledger:
            ledger.record(Gaussian(noise_multiplier), split=split)
        value = value.detach().to("cpu", torch.float64)
        noise = GaussianNoise(self.noise_seed, stream=split).release(sum(ledger.entries[split].values()))
        return value + noise.like(value, noise_multiplier * sensitivity)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Save with the ledger, the policy's thresholds and the noise multiplier inside."""
        kept = self._run_record.state_dict()
        if kept:
            own = {
                "policy_name": type(self.policy).__name__,
                "policy": self.policy.state_dict(),
                "noise_multiplier": self.noise_multiplier,
                "unit": unit_name(self.unit),
            }
            checkpoint["dplit"] = {**kept, **own}
        super().save_checkpoint(checkpoint, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load; a fit that resumes takes the ledger along.

        Raises:
            JournalError: the checkpoint to resume from has no ledger.
        """
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        if self._trainer.state.fn == "fit":
            self._restored = restorable(checkpoint, checkpoint_path)
        return checkpoint

    @override
    def teardown(self) -> None:
        """Leave the privacy statement and close the journal."""
        self._run_record.state(self._run_dir, self._trainer)
        self._run_record.close()
        super().teardown()

    @property
    def _trainer(self) -> pl.Trainer:
        assert self.lightning_module is not None
        return self.lightning_module.trainer

    @property
    def _run_dir(self) -> Path:
        return Path(self._trainer.log_dir or self._trainer.default_root_dir)
