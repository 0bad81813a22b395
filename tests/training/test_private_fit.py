"""A fit takes each draw once, as it was made, looks at real records once, and ends where its target does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import dplit
from dplit.clipping import GroupRates
from dplit.errors import BudgetExhausted, PrivacyError
from dplit.training import private_fit
from dplit.training.physical_batches import StepArguments
from dplit.training.private_fit import PrivateFit
from tests.lightning import BATCH, Data, Linear, fit


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Draws(Callback):
    """Keeps the draws of a fit, and does something with the private fit before one of them is taken."""

    def __init__(self, act: Any = None) -> None:
        self.draws: list[Any] = []
        self.act = act

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.draws.append(batch)
        if self.act is not None:
            self.act(trainer.strategy.private_fit, batch)


def test_something_else_than_a_draw_is_refused() -> None:
    with pytest.raises(PrivacyError, match="got a list, not a Poisson draw"):
        fit(callbacks=[Draws(lambda private, draw: private.take([1], StepArguments()))])


def test_a_draw_is_taken_once() -> None:
    with pytest.raises(PrivacyError, match="closure twice"):
        fit(callbacks=[Draws(lambda private, draw: private.take(draw, StepArguments()))])


def test_records_are_looked_at_before_the_first_release_and_at_powers_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    class Counted(private_fit.Probes):
        def before_draw(self, given: StepArguments, epoch: int = 0) -> bool:
            looked = super().before_draw(given, epoch)
            looks.extend([self._draws - 1] if looked else [])
            return looked

    monkeypatch.setattr(private_fit, "Probes", Counted)
    run = fit(max_epochs=3)
    assert run.strategy.ledger.steps == 12
    assert looks == [0, 1, 2, 4, 8]


def test_the_plan_is_the_fits() -> None:
    strategy = dplit.DPStrategy(noise=1.3, delta=1e-6, physical_batch_size=5)
    assert strategy.private_fit is None
    assert strategy.spent() is None
    assert strategy.noise_std() == 0
    fit(strategy=strategy)
    plan = strategy.private_fit.plan
    assert (plan.noise_multiplier, plan.rate, plan.size, plan.delta) == (1.3, BATCH / 64, 64, 1e-6)
    assert strategy.noise_std() == pytest.approx(1.3 * strategy.policy.bound / BATCH)
    assert strategy.physical_batch_size == strategy.private_fit.physical_batch_size == 5


@pytest.mark.parametrize("logs", [True, False])
def test_the_loss_that_callbacks_see_follows_training_logs(logs: bool) -> None:
    seen: list[Tensor] = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(outputs["loss"])

    fit(strategy=dplit.DPStrategy(training_logs=logs), callbacks=[Losses()])
    assert all(bool(loss > 0) is logs for loss in seen)


def law_training_ends_with_the_target() -> None:
    strategy = dplit.DPStrategy(noise=dplit.Target(2.0, 1e-5))
    fit(strategy=strategy, max_epochs=2)
    more = dplit.DPStrategy(noise=dplit.Target(2.0, 1e-5), ledger=strategy.ledger)
    more.noise_multiplier = strategy.noise_multiplier
    before = strategy.ledger.steps
    with suppress(BudgetExhausted):
        fit(strategy.lightning_module, more, max_epochs=50)
    assert more.ledger.epsilon(1e-5).upper <= 2.0
    assert more.ledger.steps < before + 50 * 4


def test_training_ends_with_the_target() -> None:
    law_training_ends_with_the_target()


def test_mutant_that_never_ends_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.setup.steps_within", lambda *given: None)
    with pytest.raises(AssertionError):
        law_training_ends_with_the_target()


@pytest.mark.slow
def test_the_strategy_holds_one_fit_and_begins_another() -> None:
    """Also on another number of records, by which a delta that was not given goes."""
    strategy, module = dplit.DPStrategy(physical_batch_size=3), Linear()
    run = fit(module, strategy)
    first = strategy.private_fit
    assert strategy.delta == min(1e-5, 1 / 640)
    run.fit_loop.max_epochs = 2
    run.fit(module, DataLoader(Data(20_000), batch_size=10_000))
    assert isinstance(first, PrivateFit)
    assert strategy.private_fit is not first
    assert strategy.private_fit.plan.size == 20_000
    assert strategy.delta == 1 / 200_000
    assert strategy.ledger.steps == 6


class Drifting(GroupRates):
    """Halves its rates once the loader is made, so that records are drawn more often than they are charged."""

    def __init__(self) -> None:
        super().__init__({"a": 2.0, "b": 1.0, "c": 1.0})
        self._asked = 0

    def rates(self, rate: float) -> dict[str, float]:
        self._asked += 1
        return {name: q / min(2, self._asked) for name, q in super().rates(rate).items()}


def law_rates_are_those_charged() -> None:
    with pytest.raises(PrivacyError, match="records are drawn at the rates"):
        fit(strategy=dplit.DPStrategy(Drifting(), group="group", groups=["a", "b", "c"]))


def test_rates_that_change_before_the_first_step_are_refused() -> None:
    law_rates_are_those_charged()


def test_mutant_that_trusts_the_loader_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_fit, "check_rates", lambda step, sampler: None)
    with pytest.raises(pytest.fail.Exception):
        law_rates_are_those_charged()
