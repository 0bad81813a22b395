"""An optimizer learns nothing of the exact loss, by whichever road it asks (promise 29)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

import dplit
from dplit.training.outlets.closure import MEAN_LOSS, StepResult, step_output
from tests.lightning import Linear, fit


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Listening(torch.optim.SGD):
    """Keeps what its closure returns, as one with a line search would."""

    def __init__(self, parameters: Any, heard: list[Any]) -> None:
        super().__init__(parameters, lr=0.1)
        self.heard = heard

    def step(self, closure: Any = None) -> Any:
        self.heard.append(closure())
        return super().step()


class Curious(Linear):
    """Asks by every hook of an optimizer step that is given a loss or a closure."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def configure_optimizers(self) -> Any:
        return Listening(self.net.parameters(), self.heard)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        def overheard() -> Any:
            self.heard.append(optimizer_closure())
            return self.heard[-1]

        self.heard.append(optimizer.step(closure=overheard))

    def on_before_backward(self, loss: Tensor) -> None:
        self.heard.append(loss)


class Nosy(Callback):
    def on_before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
        module.heard.append(loss)


def law_an_optimizer_hears_no_loss(precision: str) -> None:
    module = Curious()
    fit(module, dplit.DPStrategy(), callbacks=[Nosy()], precision=precision, max_epochs=2)
    heard = [value for value in module.heard if value is not None]
    assert len(heard) >= 8 * 4
    assert all(float(value) == 0 for value in heard)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_optimizer_hears_no_loss(precision: str) -> None:
    law_an_optimizer_hears_no_loss(precision)


def test_mutant_closure_returns_the_loss_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.strategies.private.step_output", lambda loss: {"loss": loss})
    with pytest.raises(AssertionError):
        law_an_optimizer_hears_no_loss("32-true")


def test_the_mean_loss_is_only_in_the_outputs() -> None:
    result = StepResult.from_training_step_output(step_output(torch.tensor(3.0)))
    assert result.asdict() == {"loss": torch.tensor(3.0)}
    assert result.loss == result.closure_loss == 0
    assert StepResult.from_training_step_output({"loss": torch.tensor(0.0)}).asdict() == {"loss": torch.tensor(0.0)}
    assert MEAN_LOSS in step_output(torch.tensor(3.0))
