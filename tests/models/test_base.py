"""Losses per example, optimizers, schedules and what is logged in training."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from dplit.errors import ConfigurationError
from dplit.models.mlp import MLP
from tests.models.toy import PerExample, Toy, batch_of, trainer


def law_losses_are_per_example_exactly_when_asked(model, batch, attached):
    expected = F.cross_entropy(model(batch), batch["y"], reduction="none")
    attached.strategy.per_example_losses = True
    model.trainer = attached
    assert torch.equal(model.training_step(batch, 0), expected)
    attached.strategy.per_example_losses = False
    assert torch.equal(model.training_step(batch, 0), expected.mean())


def test_losses_are_per_example_exactly_when_asked(tmp_path):
    law_losses_are_per_example_exactly_when_asked(MLP([4], 5, 2), batch_of(7), trainer(tmp_path))


def test_mutant_always_the_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(MLP, "_per_example", lambda self: False)
    with pytest.raises(AssertionError):
        law_losses_are_per_example_exactly_when_asked(MLP([4], 5, 2), batch_of(7), trainer(tmp_path))


def test_the_mean_without_a_trainer():
    assert MLP([4], 5, 2).training_step(batch_of(7), 0).shape == ()


def test_an_empty_draw_has_no_losses(tmp_path):
    model, attached = MLP([4], 5, 2, log_train_loss=True), trainer(tmp_path)
    attached.strategy.per_example_losses = True
    model.trainer = attached
    losses = model.training_step(batch_of(0), 0)
    assert losses.shape == (0,)
    assert losses.requires_grad


def test_a_strategy_that_asks_gets_losses_per_example(tmp_path):
    fitted = trainer(tmp_path, strategy=PerExample(device=torch.device("cpu")))
    fitted.fit(MLP([4]), datamodule=Toy())
    assert fitted.global_step == 4


def test_training_loss_is_logged_only_when_asked(tmp_path):
    fitted = trainer(tmp_path)
    fitted.fit(MLP([4], log_train_loss=True), datamodule=Toy())
    assert "train/loss" in fitted.callback_metrics


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_cosine_ends_at_zero_one_step_at_a_time(tmp_path, optimizer):
    rates = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = MLP([4], learning_rate=0.2, optimizer=optimizer)
    trainer(tmp_path, max_epochs=2, callbacks=[Watch()]).fit(model, datamodule=Toy())
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * t / 8)) for t in range(1, 9)])


def test_a_constant_rate_stays(tmp_path):
    fitted = trainer(tmp_path)
    fitted.fit(MLP([4], learning_rate=0.2, schedule="constant", weight_decay=0.01, momentum=0.5), datamodule=Toy())
    group = fitted.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.2, 0.01, 0.5)


def test_frozen_parameters_are_left_out():
    model = MLP([4], 5, 2, schedule="constant")
    model.net[0].requires_grad_(False)
    held = model.configure_optimizers().param_groups[0]["params"]
    assert [id(parameter) for parameter in held] == [id(parameter) for parameter in model.net[-1].parameters()]


def test_a_run_resumes_from_a_checkpoint(tmp_path):
    first = trainer(tmp_path)
    first.fit(MLP([4]), datamodule=Toy())
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = trainer(tmp_path, max_epochs=2)
    second.fit(MLP([4]), datamodule=Toy(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert second.global_step == 8


@pytest.mark.filterwarnings("ignore:`max_epochs` was not set")
def test_a_cosine_without_an_end_is_refused(tmp_path):
    endless = trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ConfigurationError, match="constant"):
        endless.fit(MLP([4]), datamodule=Toy())
