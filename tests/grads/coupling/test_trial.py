"""A trial leaves no trace."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection, SumMetric
from torchmetrics.aggregation import CatMetric

from dplit.errors import PrivacyError
from dplit.grads.coupling import trial
from dplit.grads.coupling.lasting_state import picture, same_picture
from dplit.grads.coupling.trial import Trials, undisturbed
from dplit.training.outlets.figures import Figures
from tests.lightning import Linear, fit


class Busy(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.sum, self.cat = SumMetric(), CatMetric()
        self.several = MetricCollection({"a": MeanMetric(), "b": SumMetric()})
        self.register_buffer("calls", torch.zeros(()))

    def step(self) -> None:
        self.kept.append(torch.ones(2))
        self.last = torch.rand(3)
        self.sum.update(2.0), self.cat.update(torch.ones(3)), self.several.update(torch.ones(2))


def law_no_trace() -> None:
    module = Busy()
    module.step()
    before = picture({name: picture(part) for name, part in module.named_modules()})
    with undisturbed(module):
        module.step()
        module.step()
    assert same_picture(picture({name: picture(part) for name, part in module.named_modules()}), before)
    assert float(module.sum.compute()) == 2.0
    assert module.cat.compute().tolist() == [1.0] * 3


def test_no_trace() -> None:
    law_no_trace()


def test_mutant_that_forgets_metrics_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "_put_back", lambda *given: None)
    with pytest.raises(AssertionError):
        law_no_trace()


def test_no_trace_after_an_error() -> None:
    module = Busy()
    with suppress(ZeroDivisionError), undisturbed(module):
        module.step()
        _ = 1 / 0
    assert module.kept == []
    assert not hasattr(module, "last")


def test_a_write_is_refused_unless_it_is_allowed() -> None:
    module = Busy()
    with pytest.raises(PrivacyError, match="calls"), undisturbed(module):
        module.calls += 1
    with Trials(module, allowed=frozenset({"calls"})).run():
        module.calls += 1
    assert module.calls == 0


def law_figures_of_a_trial_are_dropped() -> None:
    """Also those of an epoch that has begun, and where the fit itself would let them out."""
    logged: list[int] = []

    class Logs(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = self.losses(batch)
            if inside:
                self.log("mean", 100.0, on_epoch=True, on_step=False, batch_size=1)
            else:
                logged.append(1)
                self.log("mean", 1.0, on_epoch=True, on_step=False, batch_size=1)
            return losses

    inside: list[int] = []
    run = trial.Trials.run

    def marked(self: Any, seed: int = 0) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def both() -> Any:
            with run(self, seed):
                inside.append(1)
                try:
                    yield
                finally:
                    inside.pop()

        return both()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.Trials, "run", marked)
        patch.setattr("dplit.training.probing.FREE_SECONDS", 60.0)
        patch.setattr(Figures, "silence", lambda self: nullcontext())
        metrics = fit(Logs(), max_epochs=2).callback_metrics
    assert logged
    assert float(metrics["mean"]) == 1.0


def test_figures_of_a_trial_are_dropped(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    law_figures_of_a_trial_are_dropped()


def test_mutant_that_keeps_figures_is_caught(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "_nothing_logged", lambda module: nullcontext())
    with pytest.raises(AssertionError):
        law_figures_of_a_trial_are_dropped()
