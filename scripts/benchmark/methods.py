"""The methods: each takes a Setup and returns one training step, noise and optimizer included.

Another method is one function with `@method(name)`. A step frees its gradients at its end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

import dplit
from dplit.clipping import Flat
from dplit.grads import PerExample, Tape
from dplit.grads.ownership.proof import Proof
from dplit.privacy import Ledger
from dplit.protocols import per_example_losses
from dplit.sampling.poisson import PoissonBatches
from dplit.training.step import PrivateStep

from .workloads import Workload

FOREVER = 100_000
"""Steps in the single epoch of a Trainer, which is never finished."""

Loader = DataLoader[tuple[Tensor, ...]]


@dataclass
class Setup:
    """What a method starts from; the same weights and data for every method.

    Args:
        workload: model, data and losses.
        device: where it trains.
        examples: n, the batch.
        bare: True to compare results in place of times: no dropout, next to no noise, and one step of SGD at rate 1,
            so that parameters move by minus the clipped sum over n.
    """

    workload: Workload
    device: torch.device
    examples: int
    bare: bool = False

    @property
    def noise_multiplier(self) -> float:
        return 1e-9 if self.bare else 1.0

    @cached_property
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.workload.build().to(self.device).train()
        for layer in model.modules():
            if self.bare and isinstance(layer, nn.Dropout):
                layer.p = 0.0
        return model

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        return tuple(t.to(self.device) for t in self.workload.draw(self.examples))

    def let_go(self) -> None:
        """Forget model and data."""
        for name in ("model", "tensors"):
            self.__dict__.pop(name, None)

    def optimizer(self) -> Optimizer:
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        return SGD(trainable, lr=1.0) if self.bare else AdamW(trainable, lr=1e-4)

    def losses(self, model: nn.Module | None = None, tensors: tuple[Tensor, ...] | None = None) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.workload.autocast):
            return self.workload.losses(model or self.model, *(self.tensors if tensors is None else tensors))

    def loader(self, batch_size: int = 1, batch_sampler: list[list[int]] | None = None) -> Loader:
        data = TensorDataset(*(t.cpu() for t in self.tensors))
        return DataLoader(data, batch_size, batch_sampler=batch_sampler)


@runtime_checkable
class Steps(Protocol):
    """One training step per call. `inside` runs a task in the thread that trains; `close` lets everything go."""

    def __call__(self) -> None: ...
    def inside(self, task: Callable[[], None]) -> None: ...
    def close(self) -> None: ...


@dataclass
class Here:
    """Steps in the caller's thread."""

    step: Callable[[], None]

    def __call__(self) -> None:
        self.step()

    def inside(self, task: Callable[[], None]) -> None:
        task()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Method:
    name: str
    title: str
    start: Callable[[Setup], Steps]
    against: str
    """The method whose time and memory are 1."""

    @property
    def private(self) -> bool:
        return self.name != self.against


METHODS: dict[str, Method] = {}


Starter = Callable[[Setup], Steps | Callable[[], None]]
"""Makes a method's step out of what it starts from."""


def method(name: str, title: str, against: str = "plain") -> Callable[[Starter], Starter]:
    """Register a function from a Setup to a step, or to Steps."""

    def register(function: Starter) -> Starter:
        def start(setup: Setup) -> Steps:
            step = function(setup)
            return step if isinstance(step, Steps) else Here(step)

        METHODS[name] = Method(name, title, start, against)
        return function

    return register


@method("plain", "plain")
def plain(setup: Setup) -> Callable[[], None]:
    optimizer = setup.optimizer()

    def step() -> None:
        setup.losses().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


@method("dplit", "dplit")
def private(setup: Setup) -> Callable[[], None]:
    def gradients() -> PerExample:
        with Tape(setup.model, setup.examples) as tape:
            losses = setup.losses()
        return tape.backward(losses)

    return stepping(setup, gradients)


@method("dplit-proven", "dplit with its proof")
def proven(setup: Setup) -> Callable[[], None]:
    """Each step's path is known to be certified; the first one, before the clock runs, is followed."""
    proof = Proof()
    return stepping(setup, lambda: recorded(setup, proof))


@method("dplit-certifying", "dplit, a step on a new path")
def certifying(setup: Setup) -> Callable[[], None]:
    """Each step's path is new, so that it is recorded, and then run again with every operation followed."""
    return stepping(setup, lambda: recorded(setup, Proof()))


def recorded(setup: Setup, proof: Proof) -> PerExample:
    """Return the gradients of the whole batch, recorded on a certified path."""
    losses = lambda tensors, n: setup.losses(tensors=tensors)  # noqa: E731
    return proof.record(setup.model, losses, setup.tensors, setup.examples)[1]


def stepping(setup: Setup, gradients: Callable[[], PerExample]) -> Callable[[], None]:
    """Return a private step on the whole batch."""
    optimizer = setup.optimizer()
    release = PrivateStep(
        setup.model,
        Flat(1.0),
        noise_multiplier=setup.noise_multiplier,
        rate=0.01,
        expected_batch_size=setup.examples,
        ledger=Ledger(),
    )

    def step() -> None:
        release.begin()
        release.accumulate(gradients())
        release.release()
        optimizer.step()
        optimizer.zero_grad()

    return step


@method("opacus-hooks", "Opacus hooks")
def opacus_hooks(setup: Setup) -> Callable[[], None]:
    model, optimizer, _ = opacus(setup, "hooks")

    def step() -> None:
        setup.losses(model).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


@method("opacus-ghost", "Opacus ghost")
def opacus_ghost(setup: Setup) -> Callable[[], None]:
    model, optimizer, criterion, _ = opacus(setup, "ghost")

    def step() -> None:
        criterion(setup.losses(model)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def opacus(setup: Setup, mode: str) -> Any:
    """Ask Opacus for its model, optimizer and (ghost) loss; the loss gets losses per example as they are."""
    from opacus import PrivacyEngine  # type: ignore[import-untyped, import-not-found, unused-ignore]

    return PrivacyEngine().make_private(
        module=setup.model,
        optimizer=setup.optimizer(),
        criterion=lambda losses: losses,
        data_loader=setup.loader(batch_size=setup.examples),
        noise_multiplier=setup.noise_multiplier,
        max_grad_norm=1.0,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )


# -- through the Trainer -------------------------------------------------------------------------------------------


@method("plain-trainer", "plain through the Trainer", against="plain-trainer")
def plain_trainer(setup: Setup) -> Steps:
    batches = [list(range(setup.examples))] * FOREVER
    return Fit(setup, "auto", setup.loader(batch_sampler=batches))


@method("dplit-trainer", "dplit through the Trainer", against="plain-trainer")
def dplit_trainer(setup: Setup) -> Steps:
    strategy = EveryRecord(Flat(1.0), setup.noise_multiplier, physical_batch_size=setup.examples, delta=1e-5)
    return Fit(setup, strategy, setup.loader(batch_size=setup.examples))


class EveryRecord(dplit.DPStrategy):
    """Draws at rate 1, so that each draw is the whole batch and draws compare with batches; one endless epoch."""

    def process_dataloader(self, dataloader: object) -> object:
        loader = super().process_dataloader(dataloader)
        sampler = getattr(loader, "batch_sampler", None)
        if isinstance(sampler, PoissonBatches):
            sampler.draws = FOREVER
        return loader


class Module(LightningModule):
    """Losses per example where the strategy wants them, else their mean. Calls `turn` before every batch."""

    def __init__(self, setup: Setup, turn: Callable[[], int | None]) -> None:
        super().__init__()
        self.model, self._setup, self._turn = setup.model, setup, turn

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> int | None:
        return self._turn()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        losses = self._setup.losses(self.model, tuple(batch))
        return losses if per_example_losses(self.trainer) else losses.mean()

    def configure_optimizers(self) -> Optimizer:
        return self._setup.optimizer()


class Fit:
    """A fit in a thread of its own that waits before every batch; a call lets it go on to the next.

    So a call is all that the Trainer does from one batch's start to the next one's.
    """

    def __init__(self, setup: Setup, strategy: Strategy | str, loader: Loader) -> None:
        self._orders: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._answers: SimpleQueue[Exception | None] = SimpleQueue()
        self._thread = Thread(target=self._run, args=(setup, strategy, loader), daemon=True)
        self._thread.start()
        self._answered()

    def __call__(self) -> None:
        self.inside(_go_on)

    def inside(self, task: Callable[[], object]) -> None:
        self._orders.put(task)
        self._answered()

    def close(self) -> None:
        self._orders.put(_end)
        self._thread.join()

    def _answered(self) -> None:
        error = self._answers.get()
        if error is not None:
            raise error

    def _turn(self) -> int | None:
        self._answers.put(None)
        while (order := self._orders.get()) not in (_go_on, _end):
            order()
            self._answers.put(None)
        return -1 if order is _end else None  # -1 ends the epoch, which is the last

    def _run(self, setup: Setup, strategy: Strategy | str, loader: Loader) -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                trainer(setup.device, strategy, folder).fit(Module(setup, self._turn), loader)
            self._answers.put(RuntimeError("the fit ended by itself"))
        except Exception as error:
            self._answers.put(error)


def trainer(device: torch.device, strategy: Strategy | str, folder: str) -> Trainer:
    return Trainer(
        strategy=strategy,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _go_on() -> None: ...
def _end() -> None: ...
