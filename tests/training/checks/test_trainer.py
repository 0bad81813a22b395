"""Settings that would void the guarantee are refused by name, in one line (promise 21 and section 3 of the design)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ThroughputMonitor
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler

import dplit
from dplit.errors import ConfigurationError, DplitError, PrivacyError
from tests.lightning import Data, Linear, fit, loader, trainer


class Manual(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class TwoOptimizers(Linear):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net.parameters(), 0.1), torch.optim.SGD(self.net.parameters(), 0.1)]


class Outside(Linear):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.net.parameters(), nn.Parameter(torch.zeros(3))], 0.1)


class Closures(Linear):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.net.parameters(), max_iter=4)


class OwnBackward(Linear):
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()


class Transfers(Linear):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class Normed(Linear):
    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=affine), nn.Linear(8, 3))


class Scalar(Linear):
    """Its loss is the mean of the examples' losses."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx).mean()


class SquaredScalar(Scalar):
    """No mean or sum of the examples' losses."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx).square()


class Skips(Linear):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None


class Resample(Callback):
    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        trainer.fit_loop._combined_loader.flattened = [loader()]


CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "accumulation": (lambda: fit(accumulate_grad_batches=4), PrivacyError, "accumulate_grad_batches=4 would merge"),
    "gradient_clip_val": (lambda: fit(gradient_clip_val=1.0), PrivacyError, "gradient_clip_val=1.0"),
    "overfit_batches": (lambda: fit(overfit_batches=2), PrivacyError, "overfit_batches"),
    "two_devices": (lambda: fit(devices=2), ConfigurationError, "one device, got 2"),
    "manual": (lambda: fit(Manual()), PrivacyError, "manual optimization"),
    "two_optimizers": (lambda: fit(TwoOptimizers()), RuntimeError, "multiple optimizers is only supported"),
    "outside": (lambda: fit(Outside()), PrivacyError, "outside the LightningModule"),
    "closures": (lambda: fit(Closures()), PrivacyError, "closure twice"),
    "own_backward": (lambda: fit(OwnBackward()), PrivacyError, "OwnBackward.backward"),
    "transfers": (lambda: fit(Transfers()), PrivacyError, "on_before_batch_transfer"),
    "batch_norm": (lambda: fit(Normed()), PrivacyError, "net.1 is a BatchNorm1d"),
    "batch_norm_without_weights": (lambda: fit(Normed(affine=False)), PrivacyError, "net.1 is a BatchNorm1d"),
    "scalar": (lambda: fit(SquaredScalar()), ConfigurationError, "not seen to be the plain mean or sum"),
    "scalar_called_a_mean": (
        lambda: fit(SquaredScalar(), strategy=dplit.DPStrategy(loss_reduction="mean")),
        ConfigurationError,
        "not seen to be the plain mean or sum",
    ),
    "scalar_called_a_sum": (
        lambda: fit(Scalar(), strategy=dplit.DPStrategy(loss_reduction="sum")),
        ConfigurationError,
        "loss_reduction='sum', but the scalar that training_step returned is the mean over the examples",
    ),
    "none": (lambda: fit(Skips()), PrivacyError, "NoneType"),
    "weighted": (
        lambda: fit(train=DataLoader(Data(), sampler=WeightedRandomSampler(torch.ones(64), 64), batch_size=8)),
        PrivacyError,
        "WeightedRandomSampler",
    ),
    "replaced": (lambda: fit(callbacks=[Resample()]), PrivacyError, "not the ledger's Poisson draws"),
    "large_batch": (lambda: fit(train=DataLoader(Data(), batch_size=65)), ConfigurationError, "batch_size=65"),
    "several_loaders": (lambda: fit(train=[loader(), loader()]), PrivacyError, "2 train loaders"),
    "noise": (lambda: dplit.DPStrategy(noise=0.0), ConfigurationError, "noise=0.0"),
    "noise_null": (lambda: dplit.DPStrategy(noise=None), ConfigurationError, "noise=None"),
    "physical": (lambda: dplit.DPStrategy(physical_batch_size=0), ConfigurationError, "physical_batch_size=0"),
    "physical_words": (lambda: dplit.DPStrategy(physical_batch_size="all"), ConfigurationError, "or 'auto'"),
    "limit": (
        lambda: dplit.DPStrategy(physical_batch_size="auto", memory_limit=0),
        ConfigurationError,
        "memory_limit=0 must be",
    ),
    "limit_of_a_number": (
        lambda: dplit.DPStrategy(physical_batch_size=8, memory_limit=2),
        ConfigurationError,
        "memory_limit=2 has no meaning beside physical_batch_size=8",
    ),
    "limit_too_small": (
        lambda: fit(strategy=dplit.DPStrategy(physical_batch_size="auto", memory_limit=1e-3)),
        ConfigurationError,
        "memory_limit=0.001 GiB does not hold the model and one example",
    ),
    "epsilon": (lambda: dplit.Target(epsilon=0.0, delta=1e-5), ConfigurationError, "epsilon"),
    "delta": (lambda: dplit.Target(epsilon=1.0, delta=1.0), ConfigurationError, "delta"),
    "no_plan": (
        lambda: fit(strategy=dplit.DPStrategy(noise=dplit.Target(3.0, 1e-3)), max_epochs=-1),
        ConfigurationError,
        "planned number of steps",
    ),
    "undeclared": (
        lambda: fit(strategy=dplit.DPStrategy(policy=dplit.clipping.GroupQuantile())),
        ConfigurationError,
        "declare the list",
    ),
    "no_group_key": (
        lambda: fit(strategy=dplit.DPStrategy(policy=dplit.clipping.GroupQuantile(), group="tribe", groups=["a", "b"])),
        ConfigurationError,
        "no group entry 'tribe'",
    ),
    "outside_the_list": (
        lambda: fit(strategy=dplit.DPStrategy(policy=dplit.clipping.GroupQuantile(), group="group", groups=["a", "b"])),
        ConfigurationError,
        "group id 2 lies outside the declared list of 2: a, b",
    ),
    "thresholds": (
        lambda: fit(
            strategy=dplit.DPStrategy(
                policy=dplit.clipping.GroupThresholds({"a": 1.0}), group="group", groups=["a", "b"]
            )
        ),
        ConfigurationError,
        "declared groups are a, b",
    ),
}


@pytest.mark.filterwarnings("ignore:.*max_epochs=-1.*")
@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, error, says = CASES[name]
    with pytest.raises(error) as caught:
        run()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_was_charged_for_a_refusal(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strategy = dplit.DPStrategy(noise=1.0)
    with pytest.raises(PrivacyError):
        fit(Normed(), strategy=strategy)
    assert strategy.ledger.steps == 0


def test_the_samplers_are_ours(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = trainer()
    run.fit(Linear(), loader())
    assert type(run.train_dataloader.batch_sampler).__name__ == "PoissonBatches"


def test_mutant_without_the_check_at_fit_start_is_caught(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader replaced behind our back still cannot train: its batches are no draws."""
    monkeypatch.chdir(tmp_path)
    from dplit.training.checks.loader import poisson_train_loader as honest

    ours: list[Any] = []

    class Late(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: LightningModule) -> None:
            ours.append(honest(trainer))
            trainer.fit_loop._data_fetcher.combined_loader.flattened = [loader()]
            iter(trainer.fit_loop._data_fetcher)

    with pytest.raises(PrivacyError, match="not a Poisson draw"):
        fit(callbacks=[Late()])


def test_a_delta_that_promises_nothing_is_warned_of(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="delta=0.02 is not below 1/64"):
        fit(strategy=dplit.DPStrategy(noise=1.0, delta=0.02))


SPOILT = {
    "nothing": lambda kept: None,
    "a list": lambda kept: [1],
    "no ledger": lambda kept: {k: v for k, v in kept.items() if k != "ledger"},
    "no policy": lambda kept: {k: v for k, v in kept.items() if k != "policy"},
    "policy a list": lambda kept: kept | {"policy": [1]},
    "no noise": lambda kept: kept | {"noise_multiplier": None},
    "noise inf": lambda kept: kept | {"noise_multiplier": float("inf")},
    "noise huge": lambda kept: kept | {"noise_multiplier": 1e200},
    "noise negative": lambda kept: kept | {"noise_multiplier": -1.0},
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_checkpoint_is_one_line_and_takes_no_step(how: str, tmp_path: Any, monkeypatch: Any) -> None:
    """An empty entry would otherwise resume with an empty ledger."""
    monkeypatch.chdir(tmp_path)
    fit(max_epochs=1).save_checkpoint("kept.ckpt")
    found = torch.load("kept.ckpt", weights_only=False)
    torch.save(found | {"dplit": SPOILT[how](found["dplit"])}, "spoilt.ckpt")
    strategy = dplit.DPStrategy()
    with pytest.raises(DplitError, match="privacy ledger") as caught:
        trainer(strategy, max_epochs=2).fit(Linear(), loader(), ckpt_path="spoilt.ckpt")
    assert "\n" not in str(caught.value)
    assert strategy.ledger.steps == 0


# -- callbacks that read the batch ---------------------------------------------------------------------------------------


def throughput(**reads: Any) -> Any:
    from lightning.pytorch.loggers import CSVLogger

    return fit(FlopsKnown(), callbacks=[ThroughputMonitor(**reads)], logger=CSVLogger("."), log_every_n_steps=1)


class FlopsKnown(Linear):
    flops_per_batch = 1


@pytest.mark.parametrize(
    "reads",
    [
        {"batch_size_fn": lambda batch: len(batch["x"])},
        {"batch_size_fn": lambda batch: batch.size(0)},
        {"batch_size_fn": lambda batch: 16, "length_fn": lambda batch: batch["x"].shape[1]},
    ],
)
def test_a_monitor_that_would_log_the_size_of_draws_is_refused_before_a_step(
    reads: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    strategy = dplit.DPStrategy()
    with pytest.raises(PrivacyError, match=r"ThroughputMonitor\(batch_size_fn=lambda batch: 16\)"):
        fit(strategy=strategy, callbacks=[ThroughputMonitor(**reads)])
    assert strategy.ledger.steps == 0


def test_what_the_refusal_advises_works_and_logs_no_private_size(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = throughput(batch_size_fn=lambda batch: 16)
    assert run.global_step == run.strategy.ledger.steps == 4
    assert "train|samples" not in run.logged_metrics or run.logged_metrics["train|samples"] % 16 == 0


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
def test_a_hook_that_reads_the_draw_is_told_in_one_line(hook: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    last = 2 if hook.endswith("start") else 3
    reader = type("Reader", (Callback,), {hook: lambda self, *args: args[last]["x"]})
    with pytest.raises(PrivacyError, match="'x' was read of a Poisson draw"):
        fit(callbacks=[reader()])


def test_callbacks_that_leave_the_batch_alone_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.callbacks import (
        DeviceStatsMonitor,
        LearningRateMonitor,
        ModelSummary,
        Timer,
        TQDMProgressBar,
    )
    from lightning.pytorch.loggers import CSVLogger

    monkeypatch.chdir(tmp_path)
    callbacks = [DeviceStatsMonitor(), LearningRateMonitor(), ModelSummary(), Timer(), TQDMProgressBar()]
    options = {"enable_progress_bar": True, "enable_model_summary": True, "log_every_n_steps": 1}
    assert fit(callbacks=callbacks, logger=CSVLogger("."), **options).global_step == 4
