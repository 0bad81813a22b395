"""Roads by which a fit could go on and the ledger not know: each is refused, or counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LearningRateFinder
from torch import Tensor, nn

import dplit
from dplit.clipping import Flat, GroupRates, GroupThresholds
from dplit.errors import ConfigurationError, CoupledExamples, PrivacyError
from dplit.grads import Tape
from dplit.grads.coupling.probe import probe
from dplit.privacy import read
from tests.clipping.laws import GROUPS
from tests.lightning import SIZE, Linear, fit, loader, trainer
from tests.oracle import law_exact, loop_gradients
from tests.training.test_step import add, make, net


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- the loader is made anew -----------------------------------------------------------------------------------------


class Reloads(Linear):
    def __init__(self, later: Any) -> None:
        super().__init__()
        self.later = later

    def train_dataloader(self) -> Any:
        return loader() if self.trainer.current_epoch == 0 else self.later()


def reload(later: Any) -> Any:
    run = trainer(dplit.DPStrategy(), max_epochs=2, reload_dataloaders_every_n_epochs=1)
    run.fit(Reloads(later))
    return run


LATER = {"larger_batches": lambda: loader(batch=SIZE), "fewer_records": lambda: loader(32, 8)}


@pytest.mark.parametrize("later", LATER)
def test_a_reloaded_loader_must_draw_as_charged(later: str) -> None:
    with pytest.raises(PrivacyError, match="the train loader was reloaded and now draws"):
        reload(LATER[later])


def test_a_reloaded_loader_that_draws_alike_goes_on() -> None:
    assert reload(loader).strategy.ledger.steps == 8


def test_mutant_without_the_check_of_the_draw_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would happen: half of the draws at rate 1, all charged at 1/4."""
    monkeypatch.setattr("dplit.training.private_fit.check_draw", lambda *a: None)
    sizes: list[int] = []

    class Sizes(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            sizes.append(batch.size)

    run = trainer(dplit.DPStrategy(), max_epochs=2, reload_dataloaders_every_n_epochs=1, callbacks=[Sizes()])
    run.fit(Reloads(LATER["larger_batches"]))
    assert SIZE in sizes
    assert {event.rate for event in run.strategy.ledger.entries["train"]} == {0.25}


# -- state that would carry data out -----------------------------------------------------------------------------------


class Centre(Linear):
    """Keeps a running mean of the inputs, in a buffer or a frozen parameter that no gradient reads."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        if frozen:
            self.centre = nn.Parameter(torch.zeros(6), requires_grad=False)
        else:
            self.register_buffer("centre", torch.zeros(6))
        self.register_buffer("calls", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.centre.lerp_(batch["x"].mean(0), 0.1)
            self.calls += 1
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen_parameter", "buffer"])
def test_a_buffer_that_takes_data_is_refused(frozen: bool) -> None:
    module = Centre(frozen)
    strategy = dplit.DPStrategy()
    with pytest.raises(PrivacyError, match="training_step writes to centre"):
        fit(module, strategy)
    assert module.centre.abs().sum() == 0
    assert strategy.ledger.steps == 0


class Counts(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls += 1
        return super().training_step(batch, batch_idx)


def test_a_buffer_that_counts_physical_batches_is_refused() -> None:
    module = Counts()
    with pytest.raises(PrivacyError, match=r"writes to calls \(by torch.Tensor.add_ at test_unseen_roads.py:\d+\)"):
        fit(module, dplit.DPStrategy(physical_batch_size=SIZE), max_epochs=3)
    assert module.calls == 0


def test_running_statistics_are_refused_by_name() -> None:
    class Tracked(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm1d(6, track_running_stats=True)

    with pytest.raises(PrivacyError, match="norm keeps running statistics"):
        fit(Tracked())


# -- mixing at random --------------------------------------------------------------------------------------------------

MIXING = {
    "permutation": lambda x: 0.5 * x + 0.5 * x[torch.randperm(len(x))],
    "argsort": lambda x: 0.5 * x + 0.5 * x[torch.rand(len(x)).argsort()],
    "masked_roll": lambda x: torch.where(torch.rand(len(x), 1) < 0.5, x.roll(1, 0), x),
    "centred_at_times": lambda x: x - x.mean(0) if torch.rand(()) > 0.6 else x,
}


@pytest.mark.parametrize("name", MIXING)
def test_mixing_at_random_is_found(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    samples = list(torch.randn(8, 6))
    with pytest.raises(CoupledExamples):
        probe(layer, torch.stack, lambda x, n: layer(MIXING[name](x)).square().sum(1), samples)


STILL = {
    "normal": lambda x: x + torch.normal(torch.zeros(len(x), 6), 1.0),
    "timesteps": lambda x: x * torch.randint(0, 10, (len(x), 1)),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full((len(x), 1), 0.6)),
    "exponential": lambda x: x + torch.empty(len(x), 6).exponential_(),
    "gumbel": lambda x: torch.nn.functional.gumbel_softmax(x),
    "rrelu": lambda x: torch.nn.functional.rrelu(x, training=True),
}


@pytest.mark.parametrize("name", STILL)
def test_ordinary_randomness_is_no_false_alarm(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    probe(layer, torch.stack, lambda x, n: layer(STILL[name](x)).square().sum(1), list(torch.randn(8, 6)))


def test_the_probe_puts_every_generator_back() -> None:
    layer = nn.Linear(6, 3)
    samples = list(torch.randn(4, 6))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    probe(layer, torch.stack, lambda x, n: layer(x * torch.rand(())).sum(1), samples)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()


# -- terms that change, ids that do not fit ------------------------------------------------------------------------------


def test_caps_that_change_are_charged_as_they_are() -> None:
    policy = GroupThresholds({"a": 1.0, "b": 0.1})
    policy.declare(["a", "b"])
    step = make(net(), policy)
    step.release()
    policy.thresholds["b"] = 1.0
    step.release()
    first, second = step.ledger.entries["train"]
    assert first.for_group("b").noise_multiplier == pytest.approx(10.0)
    assert second.for_group("b").noise_multiplier == pytest.approx(1.0)


def test_noise_that_changes_is_charged_as_it_is_and_refused_under_a_target() -> None:
    step = make(net(), Flat())
    step.noise_multiplier = 0.5
    step.release()
    assert [event.noise_multiplier for event in step.ledger.entries["train"]] == [0.5]
    step = make(net(), Flat(), releases=3)
    step.noise_multiplier = 0.5
    with pytest.raises(PrivacyError, match="after the target was solved"):
        step.release()
    assert step.ledger.steps == 0


def test_rates_that_change_are_refused() -> None:
    """The loader goes on drawing as before, so a lower charge would be untrue."""
    policy = GroupRates(dict.fromkeys(GROUPS, 2.0))
    step = make(net(), policy)
    step.release()
    policy.factors = dict.fromkeys(GROUPS, 1.0)
    with pytest.raises(PrivacyError, match="rates by group"):
        step.release()
    assert step.ledger.steps == 1


def test_a_bound_that_changes_within_a_draw_is_refused_and_was_held() -> None:
    policy = Flat(1.0)
    step = make(net(), policy, 1e-12)
    add(step, 100 * torch.randn(4, 4).double())
    policy.threshold = 50.0
    with pytest.raises(PrivacyError, match="changed its bound"):
        add(step, 100 * torch.randn(4, 4).double())
    total = torch.stack([s.norm() for s in step.reduction._sums.values()]).norm()
    assert total <= 8.0 * (1 + 1e-6)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_ids_must_match_the_examples(count: int) -> None:
    step = make(net(), GroupThresholds.example(["a", "b"]))
    with pytest.raises(ConfigurationError, match="one id for each example"):
        add(step, torch.randn(4, 4).double(), torch.zeros(count, dtype=torch.int64))


# -- one model, two trainers ---------------------------------------------------------------------------------------------


def test_a_model_trained_further_is_charged_further() -> None:
    module, first = Linear(), dplit.DPStrategy()
    fit(module, first)
    with pytest.raises(PrivacyError, match="trained under another ledger"):
        fit(module, dplit.DPStrategy())
    second = dplit.DPStrategy(ledger=first.ledger)
    fit(module, second, max_epochs=2)
    assert second.ledger.steps == read("ledger.jsonl").steps == 4 + 8


# -- gradients of the model's own ------------------------------------------------------------------------------------------


def test_a_gradient_taken_inside_the_step_is_not_recorded() -> None:
    """Adversarial training: the attack's own backward is no part of the loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).double()
    x = torch.randn(6, 5).double()

    def losses(given: Tensor) -> Tensor:
        attacked = given.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(attacked).square().sum(), attacked)
        return model(given + 0.1 * slope.sign()).square().sum(1)

    expected = loop_gradients(model, lambda i: losses(x[i : i + 1]), 6)
    with Tape(model, 6) as tape:
        value = losses(x)
    law_exact(tape.backward(value), expected, 1e-10)


# -- what searches, merges, hooks ------------------------------------------------------------------------------------------


class Merging(Callback):
    def on_train_epoch_start(self, trainer: Any, module: LightningModule) -> None:
        trainer.accumulate_grad_batches = 2


REFUSED = {
    "finder": (lambda: fit(callbacks=[LearningRateFinder()]), "LearningRateFinder chooses a setting"),
    "scheduler": (lambda: fit(callbacks=[GradientAccumulationScheduler({1: 4})]), "merge Poisson draws"),
    "merging": (lambda: fit(callbacks=[Merging()], max_epochs=1), "accumulate_grad_batches became 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    run, says = REFUSED[name]
    with pytest.raises(PrivacyError) as caught:
        run()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gradient_hook_is_refused() -> None:
    module = Linear()
    module.net.weight.register_hook(lambda grad: grad)
    with pytest.raises(PrivacyError, match=r"net.weight has a gradient hook"):
        fit(module)


def test_nothing_to_train_is_refused() -> None:
    module = Linear()
    module.net.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="every parameter is frozen"):
        fit(module)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_precisions_train(precision: str) -> None:
    run = fit(precision=precision)
    assert run.strategy.ledger.steps == run.global_step == 4


def test_large_dense_gradients_are_not_understated() -> None:
    from dplit.grads.factors.base import DenseGrad

    grads = torch.rand(1, 10_000_000)
    assert DenseGrad(grads).sq_norm().double() == pytest.approx(float(grads.double().square().sum()), rel=1e-6)


def test_a_table_scaled_by_frequency_is_refused_for_constant_ids_too() -> None:
    table = nn.Embedding(5, 3, scale_grad_by_freq=True)
    with pytest.raises(dplit.errors.UnsupportedOperation, match="scale_grad_by_freq"), Tape(table, 2):
        table(torch.arange(5))


@pytest.mark.parametrize("plain", [True, False], ids=["attribute", "buffer"])
def test_positions_kept_as_an_attribute_are_constants(plain: bool) -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Embedding(6, 4)
            if plain:
                self.ids = torch.arange(6)
            else:
                self.register_buffer("ids", torch.arange(6))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.place(self.ids)).sum((1, 2))

    model, x = Places().double(), torch.randn(6, 6, 4).double()
    expected = loop_gradients(model, lambda i: model(x[i : i + 1]), 6)
    with Tape(model, 6) as tape:
        value = model(x)
    law_exact(tape.backward(value), expected, 1e-10)
