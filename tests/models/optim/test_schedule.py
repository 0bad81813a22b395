"""The schedules are those of torch, and two laws that torch's own schedulers break."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from dplit.models.mlp import MLP
from dplit.models.optim import schedule
from dplit.models.optim.schedule import factor
from tests.models.toy import Toy, trainer


def torch_rates(name, steps, warmup_steps):
    """The rates of LinearLR followed by torch's scheduler of that name."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rest = steps - warmup_steps
    after = {
        "linear": lambda: lr_scheduler.PolynomialLR(optimizer, rest, power=1.0),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, rest),
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    }[name]()
    if warmup_steps:
        rising = lr_scheduler.LinearLR(optimizer, 1 / warmup_steps, 1.0, max(warmup_steps - 1, 1))
        after = lr_scheduler.SequentialLR(optimizer, [rising, after], milestones=[warmup_steps])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after.step()
    return rates


def law_rates_are_those_of_torch(name, steps, warmup_steps):
    share = factor(name, steps, warmup_steps / steps)
    assert [share(step) for step in range(steps)] == pytest.approx(torch_rates(name, steps, warmup_steps), abs=1e-12)


@pytest.mark.filterwarnings("ignore:The epoch parameter in .scheduler.step")
@pytest.mark.parametrize("name", schedule.SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup_steps"), [(1, 0), (7, 0), (7, 3), (500, 1), (500, 50)])
def test_rates_are_those_of_torch(name, steps, warmup_steps):
    law_rates_are_those_of_torch(name, steps, warmup_steps)


@pytest.mark.filterwarnings("ignore:The epoch parameter in .scheduler.step")
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_mutant_one_step_late(name, monkeypatch):
    monkeypatch.setitem(
        schedule.SCHEDULES, name, lambda progress: schedule.SCHEDULES["constant"](progress) - progress**2
    )
    with pytest.raises(AssertionError):
        law_rates_are_those_of_torch(name, 20, 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, *[(1 + math.cos(math.pi * done / 4)) / 2 for done in range(4)]]),
    ],
)
def test_schedules_rise_and_fall(name, expected):
    assert [factor(name, 6, 2 / 6)(step) for step in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_schedule_stays_at_its_end(name):
    assert [factor(name, 4)(step) for step in (4, 9, 400)] == pytest.approx([0.0, 0.0, 0.0])


def test_the_first_step_of_a_warm_up_moves():
    assert factor("linear", 1, 0.9)(0) == 1.0
    assert factor("linear", 100, 0.5)(0) == 1 / 50


def test_a_run_that_goes_on_for_longer_follows_its_new_length(tmp_path):
    model = MLP([4], learning_rate=1.0, schedule="linear")
    first = trainer(tmp_path)
    first.fit(model, datamodule=Toy())
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = trainer(tmp_path, max_epochs=4, limit_train_batches=4)
    rates = []
    model = MLP([4], learning_rate=1.0, schedule="linear")
    model.on_train_batch_start = lambda *_: rates.append(second.optimizers[0].param_groups[0]["lr"])
    second.fit(model, datamodule=Toy(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert rates[1:] == pytest.approx([1 - step / 16 for step in range(5, 16)])
