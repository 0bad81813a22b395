"""Measuring leaves no trace: a fit with it is bit for bit the fit without it."""

from __future__ import annotations

import random
import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

import dplit
from dplit.clipping import GroupQuantile
from dplit.data.units import Copies
from dplit.diagnostics import clipping_effect, sample
from dplit.errors import ConfigurationError
from tests.diagnostics.project import GROUPS, SIZE, Net, batch_of, fit, public, rows
from tests.diagnostics.test_clipping_effect import law_equals_a_loop
from tests.lightning import Data, trainer


class Busy(Net):
    """Logs, and keeps a metric and a list of losses: what a careless measurement would disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = MeanMetric()
        self.kept: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        self.kept.append(losses)
        self.log("train/loss", losses.detach().mean())
        return losses

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        found = super().validation_step(batch, batch_idx)
        self.seen.update(found["loss"])
        self.log("val/loss", found["loss"].mean())
        return found

    def on_validation_epoch_end(self) -> None:
        self.log("val/seen", self.seen.compute())

    def on_train_epoch_end(self) -> None:
        self.kept.clear()


class Jittered(Data):
    """Records moved at random each time they are read, by all three global generators."""

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        found = super().__getitem__(i)
        return {**found, "x": found["x"] + torch.rand(6) + random.random() + float(np.random.rand())}


class Watch(Callback):
    """Takes down, after each epoch, what must not move."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        modes = [part.training for part in pl_module.modules()]
        weights = [p.detach().clone() for p in pl_module.parameters()]
        grads = [None if p.grad is None else p.grad.clone() for p in pl_module.parameters()]
        generators = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        policy = trainer.strategy.policy.state_dict()
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        counts = (len(pl_module.kept), trainer.strategy.ledger.steps, trainer.global_step)
        self.found.append((modes, weights, grads, generators, policy, logged, counts))


def watched(diagnostics: Callback | None, form: Any) -> tuple[list[Any], dict[str, Tensor]]:
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)
    watch, module = Watch(), form(Busy())
    policy = GroupQuantile(quantile=0.4, start=0.7, noise_multiplier=0.1)
    kept = {"scratch": ["kept", "_orig_mod.kept"]}
    run = fit(diagnostics, policy, module, Jittered(SIZE), (watch,), batch=SIZE, strategy=kept, max_epochs=2)
    watch.found.append([run.strategy.ledger.state_dict()["entries"], run.strategy.spent()])
    return watch.found, module.state_dict()


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return bool(a == b)


def law_without_a_trace(form: Any = lambda module: module) -> None:
    """A fit measured every epoch is bit for bit the fit that is not: full draws and a fixed noise seed."""
    found, weights = watched(public(), form)
    plain, plain_weights = watched(None, form)
    assert len(rows(epoch=1)) > 0
    assert equal(weights, plain_weights)
    assert equal(found, plain)


def test_training_is_bit_for_bit_the_same() -> None:
    law_without_a_trace()


def _called_compiled(module: Any) -> Any:
    module.compile(backend="eager")
    return module


def _wrapped(module: Any) -> Any:
    return torch.compile(module, backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize("form", [_wrapped, _called_compiled])
def test_training_of_a_compiled_module_is_the_same(form: Any) -> None:
    law_without_a_trace(form)


@pytest.mark.slow
def test_mutant_compiled_steps_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "to_uncompiled", lambda module: module)
    with pytest.raises(AssertionError):
        law_without_a_trace(_wrapped)


weighed = clipping_effect.weigh


def _asks_and_tells(policy: Any, gradients: Any, norms: Tensor, group: Tensor, groups: int) -> Any:
    policy.tell(policy.ask(norms, group).value.double())
    return weighed(policy, gradients, norms, group, groups)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (clipping_effect, "weigh", _asks_and_tells),
        (sample, "isolate_rng", lambda include_cuda: nullcontext()),
        (sample, "apart", lambda module: module.eval()),
        (sample, "apart", lambda module: module),
    ],
    ids=["asks and tells", "global generators", "left in eval", "not a copy"],
)
def test_mutant_traces(where: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError):
        law_without_a_trace()


def test_mutant_gradients_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: sample.Sample) -> Any:
        with self._measuring() as module:
            batch, _, _ = next(self._batches())
            module.training_step(batch, 0).sum().backward()
        return gradient_rows(self)

    gradient_rows = sample.Sample.gradient_rows
    monkeypatch.setattr(sample.Sample, "gradient_rows", careless)
    with pytest.raises(AssertionError):
        law_without_a_trace()


def test_mutant_measured_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = sample.apart
    monkeypatch.setattr(sample, "apart", lambda module: apart(module).train())
    with pytest.raises(AssertionError):
        law_equals_a_loop()


def test_a_module_that_cannot_be_copied_is_named_in_one_line() -> None:
    module = Net()
    module.lock = threading.Lock()
    with pytest.raises(ConfigurationError, match=r"measures a copy of Net.*cannot pickle.*drop the callback"):
        fit(public(), module=module)


class Recurrent(Net):
    """A GRU and a weight computed from parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), nn.Dropout(0.5))
        self.rnn = nn.GRU(6, 6, batch_first=True)

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self.net(self.rnn(batch["x"][:, None])[0][:, 0]), batch["y"], reduction="none")


def test_recurrent_layers_stay_in_the_mode_they_can_be_differentiated_in() -> None:
    run = fit(public(records=8), module=Recurrent(), limit_val_batches=0, strategy={"grads": "loop"})
    module, copied = run.lightning_module, sample.apart(run.lightning_module)
    assert rows()["train", "", "n"] == 8
    assert copied.rnn.training
    assert not copied.net[1].training
    assert {id(p) for p in copied.parameters()} == {id(p) for p in module.parameters()}
    assert torch.equal(copied.losses(batch_of()), module.eval().losses(batch_of()))


def test_records_that_are_clipped_together_are_refused() -> None:
    strategy = dplit.DPStrategy(noise=1.0, group="group", groups=GROUPS)
    loader = DataLoader(Copies(Data(), lambda sample: [sample]), batch_size=8)
    with pytest.raises(ConfigurationError, match="single records, but here"):
        trainer(strategy, callbacks=[public()]).fit(Net(), loader, DataLoader(Data(), batch_size=8))
    assert strategy.ledger.steps == 0


def test_a_batch_without_groups_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no group entry 'sex'"):
        fit(public(), strategy={"group": "sex"})
