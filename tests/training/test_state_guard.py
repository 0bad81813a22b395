"""Nothing that outlives a draw takes a value from it; caches are put back, everything else is refused by its name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import SumMetric

import dplit
from dplit.errors import PrivacyError
from dplit.training import state_guard
from dplit.training.state_guard import StateGuard
from tests.lightning import SIZE, Linear, fit

Step = Callable[[Any, Tensor, Tensor], Any]


class Model(LightningModule):
    def __init__(self, step: Step) -> None:
        super().__init__()
        self.layer, self.step = nn.Linear(4, 4), step
        self.queue, self.seen, self.table = deque(maxlen=50), set(), {}
        self.items: list[Any] = []
        self.average, self.count = 0.0, 0
        self.last: Any = None
        self.array = np.zeros(3)
        self.inner = nn.ModuleDict({"part": nn.Identity()})
        self.register_buffer("means", torch.zeros(4), persistent=False)
        self.metric = SumMetric()
        self.chance = torch.Generator()

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.step(self, *batch)
        return self.layer(batch[0]).square().sum(1)


def take(model: Model, scratch: tuple[str, ...] = (), draws: int = 3, rows: tuple[int, ...] = (5, 2)) -> StateGuard:
    torch.manual_seed(0)
    guard = StateGuard(model, scratch)
    for _ in range(draws):
        with guard.draw():
            for n in rows:
                batch = torch.randn(n, 4), torch.randint(0, 3, (n,))
                with guard.physical_batch(lambda alter, batch=batch: model(alter(batch))):
                    model(batch)
    return guard


TAKES: dict[str, tuple[str, Step]] = {
    "running mean": ("average", lambda m, x, y: setattr(m, "average", 0.9 * m.average + float(x.mean()))),
    "replaced buffer": ("means", lambda m, x, y: setattr(m, "means", m.means + x.mean(0).detach())),
    "queue": ("queue", lambda m, x, y: m.queue.extend(x.detach())),
    "list of losses": ("items", lambda m, x, y: m.items.append(x.sum().detach())),
    "labels that were seen": ("seen", lambda m, x, y: m.seen.update(y.tolist())),
    "table": ("table", lambda m, x, y: m.table.update({int(y[0]): x[0].detach()})),
    "last value": ("last", lambda m, x, y: setattr(m, "last", x.detach())),
    "text": ("last", lambda m, x, y: setattr(m, "last", str(y.tolist()))),
    "of a submodule": ("inner.part.kept", lambda m, x, y: setattr(m.inner["part"], "kept", float(x.sum()))),
    "array": ("array", lambda m, x, y: m.array.__setitem__(0, float(x.sum()))),
    "of a parameter": ("layer.weight.kept", lambda m, x, y: setattr(m.layer.weight, "kept", float(x.sum()))),
    "counter": ("count", lambda m, x, y: setattr(m, "count", m.count + 1)),
    "records": ("count", lambda m, x, y: setattr(m, "count", m.count + len(x))),
    "list of nothing": ("items", lambda m, x, y: m.items.append(None)),
    "buffer in place": ("means", lambda m, x, y: m.means.add_(x.mean(0).detach())),
    "buffer by data": ("means", lambda m, x, y: m.means.data.lerp_(x.mean(0).detach(), 0.1)),
    "parameter": ("layer.bias", lambda m, x, y: m.layer.bias.data.lerp_(x.mean(0).detach(), 0.1)),
    "by numpy": ("means", lambda m, x, y: m.means.numpy().__setitem__(0, 1.0)),
    "of a rare record": ("means", lambda m, x, y: m.means.add_((y == 17).sum())),
    "layer": ("inner.fresh", lambda m, x, y: m.inner.update({"fresh": nn.Linear(2, 2)})),
}


def law_is_refused(name: str) -> None:
    what, step = TAKES[name]
    model = Model(step)
    before = {k: v.clone() for k, v in [*model.named_parameters(), *model.named_buffers()]}
    with pytest.raises(PrivacyError) as caught:
        take(model)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (model.average, model.count, model.last, model.items) == (0.0, 0, None, [])
    assert (len(model.queue), len(model.seen), len(model.table), float(model.array.sum())) == (0, 0, 0, 0.0)
    assert all(torch.equal(v, before[k]) for k, v in [*model.named_parameters(), *model.named_buffers()])


@pytest.mark.parametrize("name", TAKES)
def test_state_that_takes_values_is_refused_and_put_back(name: str) -> None:
    law_is_refused(name)


def test_mutant_a_counter_of_physical_batches_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_guard, "same_picture", lambda a, b: True)
    with pytest.raises(pytest.fail.Exception):
        law_is_refused("counter")


def test_mutant_without_other_records_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_guard, "ALTERATIONS", ())
    with pytest.raises(pytest.fail.Exception):
        law_is_refused("last value")


def test_mutant_that_does_not_watch_writes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_guard.WriteWatch, "_check", lambda *given: None)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law_is_refused("buffer in place")


def _positions(m: Model, x: Tensor, y: Tensor) -> None:
    """As rotary embeddings do: kept for the number of rows seen last."""
    if m.count != len(x):
        m.count, m.last = len(x), torch.arange(len(x)) * 2.0
    m.table.setdefault(len(x), torch.ones(len(x)))


HARMLESS: dict[str, Step] = {
    "nothing": lambda m, x, y: None,
    "cache by shape": _positions,
    "buffer by shape": lambda m, x, y: m.register_buffer("mask", torch.ones(len(x)), persistent=False),
    "what has a name already": lambda m, x, y: setattr(m, "text", "x"),
    "random seeds": lambda m, x, y: setattr(m, "last", torch.randint(100, (3,))),
    "metric": lambda m, x, y: m.metric.update(len(x)),
    "on a result": lambda m, x, y: x.add_(1),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_caches_and_metrics_pass_and_caches_are_put_back(name: str) -> None:
    model = Model(HARMLESS[name])
    guard = take(model)
    assert (model.count, model.last, len(model.table)) == (0, None, 0)
    assert not hasattr(model, "mask")
    assert guard.metrics.keys() == ({"metric"} if name == "metric" else set())


def test_a_metric_counts_every_record_once() -> None:
    model = Model(lambda m, x, y: (m.metric.update(len(x)), _positions(m, x, y)))
    take(model, draws=3, rows=(5, 2))
    assert float(model.metric.compute()) == 3 * 7


def test_a_metric_that_checkpoints_keep_is_refused() -> None:
    model = Model(HARMLESS["metric"])
    model.metric.persistent(True)
    with pytest.raises(PrivacyError, match=r"call metric.persistent\(False\)"):
        take(model)


@pytest.mark.parametrize("name", ["last value", "counter", "buffer in place", "queue", "list of losses"])
def test_what_is_declared_scratch_is_put_back(name: str) -> None:
    what, step = TAKES[name]
    model = Model(step)
    take(model, scratch=("nothing", what[:3] + "*"))
    assert (model.count, model.last, len(model.queue), model.items) == (0, None, 0, [])
    assert model.means.abs().sum() == 0


def test_what_changes_between_draws_is_left_alone() -> None:
    model = Model(HARMLESS["nothing"])
    guard = StateGuard(model)
    for k in range(3):
        model.count, model.last = k, torch.ones(k)
        model.items.append(k)
        with guard.draw(), guard.physical_batch(lambda alter: None):
            model((torch.ones(2, 4), torch.ones(2)))
        assert (model.count, len(model.last), model.items) == (k, k, list(range(k + 1)))


@pytest.mark.parametrize("draw", [(), (5,), (5, 2, 9)])
def test_random_numbers_after_a_draw_do_not_tell_of_it(draw: tuple[int, ...]) -> None:
    follow = []
    for step in (lambda m, x, y: torch.rand(len(x)), lambda m, x, y: torch.manual_seed(int(1e6 * x.abs().sum()))):
        model = Model(step)
        guard = StateGuard(model)
        torch.manual_seed(1), model.chance.manual_seed(1)
        with guard.draw():
            for n in draw:
                with guard.physical_batch(lambda alter: None):
                    model((torch.ones(n, 4), torch.ones(n)))
        follow.append((float(torch.rand(())), float(torch.rand((), generator=model.chance))))
    assert follow[0] == follow[1]


@pytest.mark.parametrize("grads", ["tape", "vmap", "loop"])
def test_a_counter_is_refused_in_a_fit_by_every_backend(
    grads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Counts(Linear):
        calls = 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.calls += 1
            return super().training_step(batch, batch_idx)

    module = Counts()
    with pytest.raises(PrivacyError, match="calls is set by training_step and changes with every physical batch"):
        fit(module, dplit.DPStrategy(physical_batch_size=SIZE, grads=grads))
    assert module.calls == 0
    fit(Counts(), dplit.DPStrategy(grads=grads, scratch=["calls"]))
