"""`DPStrategy(grads=...)`: every engine takes the same steps; what one cannot run it says, and another runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader

import dplit
from dplit.clipping import Flat, GroupQuantile, GroupThresholds
from dplit.errors import ConfigurationError, CoupledExamples, PrivacyError, UnsupportedOperation
from dplit.grads import backends
from dplit.training.private_fit import PrivateFit
from tests.lightning import SIZE, Data, Linear, fit


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


EVERY = ["auto", "tape", "vmap", "loop"]
SLOW = ["vmap", "loop"]


class Net(Linear):
    """Logs a mean and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.losses(batch)
        self.log("mean", losses.mean(), on_step=False, on_epoch=True)
        self.log_dict({"above": (losses > 1).float().sum(), "step": 1.0}, on_step=False, on_epoch=True, reduce_fx="sum")
        return {"loss": losses}


def whole(collate: Callable[..., Any] | None = None) -> DataLoader:
    """Rate 1: every draw is everybody, so that two fits see the same draws."""
    return DataLoader(Data(), batch_size=SIZE, collate_fn=collate)


def trained(grads: str, policy: Any = None, module: Any = None, **options: Any) -> tuple[Tensor, Any]:
    torch.manual_seed(0)
    module = module or Net()
    strategy = dplit.DPStrategy(
        policy or Flat(0.3), 0.5, physical_batch_size=9, noise_seed=1, grads=grads, groups=NAMES
    )
    run = fit(module, strategy, whole(), max_epochs=3, **options)
    return torch.cat([p.detach().flatten() for p in module.parameters()]), run


def law_engines_agree(policy: Callable[[], Any]) -> None:
    taped, _ = trained("tape", policy())
    for grads in SLOW:
        other, _ = trained(grads, policy())
        assert float((taped - other).abs().max()) < 1e-5, grads


NAMES = ("a", "b", "c")
POLICIES: dict[str, Callable[[], Any]] = {
    "flat": lambda: Flat(0.3),
    "asks": lambda: GroupQuantile.example(NAMES),
    "groups": lambda: GroupThresholds(dict(zip(NAMES, (0.3, 0.1, 0.02), strict=True))),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_fit_is_the_same_by_every_engine(policy: str) -> None:
    law_engines_agree(POLICIES[policy])


@pytest.mark.slow
def test_a_fit_is_the_same_when_gradients_come_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 4 * 63)
    law_engines_agree(POLICIES["groups"])


def test_mutant_runs_out_of_order_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Group ids must go with the examples they belong to."""
    honest = backends.by_vmap
    monkeypatch.setattr("dplit.grads.factors.base.MAX_INSTANTIATED", 4 * 63)
    monkeypatch.setitem(backends.BACKENDS, "vmap", lambda *a, **k: iter([*honest(*a, **k)][::-1]))
    monkeypatch.setattr(PrivateFit, "_probe", lambda self, given: None)
    with pytest.raises(AssertionError):
        law_engines_agree(POLICIES["groups"])


def test_what_training_logs_is_the_same_and_is_listed(tmp_path: Path) -> None:
    figures = {}
    for grads in EVERY:
        _, run = trained(grads, default_root_dir=tmp_path / grads)
        figures[grads] = {name: float(value) for name, value in run.callback_metrics.items()}
        statement = json.loads((tmp_path / grads / "privacy.json").read_text())
        assert "mean: exact, logged by training_step" in json.dumps(statement)
    assert figures["vmap"].keys() == figures["tape"].keys()
    for grads in SLOW:
        assert figures[grads]["mean"] == pytest.approx(figures["tape"]["mean"], abs=1e-5)
        assert figures[grads]["above"] == figures["tape"]["above"]
        assert figures[grads]["step"] == SIZE


class Distances(Linear):
    """Distances to trainable centres: no rule of the tape's."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.centres = nn.Linear(6, 4), nn.Parameter(torch.randn(3, 4))

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        logits = -torch.cdist(self.net(batch["x"])[:, None], self.centres.expand(len(batch["x"]), -1, -1))[:, 0]
        return F.cross_entropy(logits, batch["y"], reduction="none")


class Branching(Linear):
    """Another road for some examples."""

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        rows = [self.net(x) if x.sum() > 0 else 2 * self.net(x) for x in batch["x"]]
        return F.cross_entropy(torch.stack(rows), batch["y"], reduction="none")


def moved(module: Any, grads: str, **options: Any) -> bool:
    before = [p.detach().clone() for p in module.parameters()]
    fit(module, dplit.DPStrategy(grads=grads, physical_batch_size=5, **options))
    return any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_the_tape_refuses_trains() -> None:
    with pytest.raises(UnsupportedOperation, match="cdist"):
        moved(Distances(), "tape")
    assert moved(Distances(), "vmap")
    assert moved(Distances(), "loop")


def test_what_vmap_refuses_trains_in_a_loop() -> None:
    with pytest.raises(UnsupportedOperation, match="grads='loop'"):
        moved(Branching(), "vmap")
    assert moved(Branching(), "loop")


class Measured(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3, validate_args=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.accuracy(self.net(batch["x"]), batch["y"])
        self.log("accuracy", self.accuracy)
        return self.losses(batch)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_metrics_of_training_need_the_loop() -> None:
    with pytest.raises(UnsupportedOperation, match="grads='loop'"):
        moved(Measured(), "vmap")
    assert moved(Measured(), "loop")


def scalar(self: Any, batch: Any, batch_idx: int) -> Tensor:
    return self.losses(batch).mean()


@pytest.mark.parametrize("grads", EVERY)
def test_a_declared_scalar(monkeypatch: pytest.MonkeyPatch, grads: str) -> None:
    monkeypatch.setattr(Linear, "training_step", scalar)
    assert moved(Linear(), grads, loss_reduction="mean")
    assert moved(Linear(), grads), "a plain mean is seen to be one"
    if grads != "loop":
        with pytest.raises(ConfigurationError, match=r"loss_reduction='sum', but .* is the mean"):
            moved(Linear(), grads, loss_reduction="sum")


@pytest.mark.parametrize("grads", EVERY)
def test_batch_norm_is_refused(grads: str) -> None:
    module = Linear()
    module.net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(PrivacyError, match="BatchNorm1d"):
        moved(module, grads)


class Carries(Linear):
    """Adds what the example before it left behind, which no buffer shows."""

    left: Any = 0.0

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"] + self.left
        self.left = batch["x"].detach().mean(0)
        return F.cross_entropy(self.net(x), batch["y"], reduction="none")


def test_what_one_example_leaves_to_the_next_is_found_in_a_loop() -> None:
    with pytest.raises(CoupledExamples):
        moved(Carries(), "loop")


def centred(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch = torch.utils.data.default_collate(samples)
    return {**batch, "x": batch["x"] - batch["x"].mean(0)}


@pytest.mark.parametrize("grads", ["tape", "vmap"])
def test_coupling_by_the_collate_function_is_found(grads: str) -> None:
    with pytest.raises(CoupledExamples):
        fit(Linear(), dplit.DPStrategy(grads=grads), whole(centred))


def listed(samples: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return samples


class OfLists(Linear):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.losses(torch.utils.data.default_collate(batch))


def test_a_batch_of_any_form_trains_in_a_loop() -> None:
    with pytest.raises(ConfigurationError, match="grads='loop'"):
        fit(OfLists(), dplit.DPStrategy(grads="vmap"), whole(listed))
    fit(OfLists(), dplit.DPStrategy(grads="loop"), whole(listed))


@pytest.mark.parametrize("grads", EVERY)
def test_mixed_precision(grads: str) -> None:
    fit(Linear(), dplit.DPStrategy(grads=grads), precision="bf16-mixed")


def test_a_loop_takes_one_example_at_a_time() -> None:
    assert dplit.DPStrategy(grads="loop", physical_batch_size=64).physical_batch_size == 1


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="grads='ghost' must be 'auto', 'tape', 'vmap' or 'loop'"):
        dplit.DPStrategy(grads="ghost")
