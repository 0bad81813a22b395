"""SubgroupDiagnostics: its figures equal a loop's, and a fit with it is bit for bit the fit without it."""

from __future__ import annotations

import copy
import csv
import json
import math
import random
import threading
from contextlib import nullcontext
from pathlib import Path
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
from dplit.clipping import Automatic, Flat, GroupQuantile, GroupRates
from dplit.clipping.catalogue import policies
from dplit.clipping.policy import ClippingPolicy, clip
from dplit.data.units import Copies
from dplit.diagnostics import SubgroupDiagnostics, callback, clipping_effect, sample
from dplit.diagnostics.clipping_effect import Tally
from dplit.diagnostics.plots import draw
from dplit.errors import ConfigurationError
from dplit.fairness.metrics.rates import Row
from dplit.fairness.monitor.plots import save
from dplit.fairness.monitor.snapshot import Snapshot
from dplit.grads import Tape
from tests.lightning import Data, Linear, trainer
from tests.oracle import loop_gradients

GROUPS = ("a", "b", "c", "absent")
RECORDS = 20
SIZE = 48


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(callback, "save", lambda figure, path: path.touch())


class Net(Linear):
    """A classifier with dropout."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.3)
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self.net(batch["x"]), "target": batch["y"], "loss": self.losses(batch)}


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


def fit(
    diagnostics: Callback | None = None,
    policy: ClippingPolicy | None = None,
    module: Any = None,
    train: Any = None,
    callbacks: tuple[Callback, ...] = (),
    batch: int = 16,
    strategy: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    made = dplit.DPStrategy(
        policy or Flat(0.5), 1.0, **{"physical_batch_size": 7, "groups": GROUPS, "noise_seed": 5, **(strategy or {})}
    )
    found = ([] if diagnostics is None else [diagnostics]) + list(callbacks)
    run = trainer(made, callbacks=found, **options)
    run.fit(
        Net() if module is None else module,
        DataLoader(train or Data(SIZE), batch_size=batch, shuffle=True),
        DataLoader(Data(30), batch_size=8),
    )
    return run


def public(**options: Any) -> SubgroupDiagnostics:
    return SubgroupDiagnostics(declared_public=True, **{"records": RECORDS, **options})


def rows(path: str = "diagnostics.csv", epoch: int = 0) -> dict[tuple[str, str, str], float]:
    with Path(path).open() as file:
        found = [row for row in csv.DictReader(file) if int(row["epoch"]) == epoch]
    return {(row["split"], row["group"], row["metric"]): float(row["value"]) for row in found}


def same(found: dict[Any, float], expected: dict[Any, float], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (math.isnan(value) and math.isnan(found[key])) or abs(found[key] - value) <= tolerance, (
            key,
            found[key],
            value,
        )


# ---- the figures


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.double().flatten(1) for g in gradients.values()], 1)


def angle(a: Tensor, b: Tensor) -> float:
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else math.nan


def expected_of(grads: Tensor, clipped: Tensor, is_clipped: Tensor, total: Tensor) -> dict[str, float]:
    """The figures of m records from their gradients and clipped gradients, each `(m, d)`, by plain numpy."""
    if not len(grads):
        names = ["not_finite", "norm_mean", "norm_q1", "norm_median", "norm_q3", "clipped", "contribution"]
        nothing = dict.fromkeys([*names, "direction_cosine", "direction_error", "steering_cosine"], math.nan)
        return {"n": 0.0, **nothing}
    g, c, norms = grads.mean(0), clipped.mean(0), grads.norm(dim=1).numpy()
    fits = [float((s * c - g).norm() / g.norm()) for s in (0.0, max(0.0, float(g @ c / (c @ c))))]
    return {
        "n": float(len(grads)),
        "not_finite": 0.0,
        "norm_mean": float(norms.mean()),
        **{f"norm_{q}": float(np.quantile(norms, p)) for q, p in {"q1": 0.25, "median": 0.5, "q3": 0.75}.items()},
        "clipped": float(is_clipped.double().mean()),
        "contribution": float(clipped.norm(dim=1).mean()),
        "direction_cosine": angle(g, c),
        "direction_error": min(fits),
        "steering_cosine": angle(total, g),
    }


def oracle(module: Any, policy: Any, indices: list[int]) -> dict[tuple[str, str, str], float]:
    """One backward per record, in eval mode, and each record clipped by hand."""
    data, chosen = Data(SIZE), torch.tensor(indices)
    module.eval()
    grads = flat(
        loop_gradients(module, lambda i: module.losses({k: v[None] for k, v in data[indices[i]].items()}), len(indices))
    )
    group, norms = data.group[chosen], grads.norm(dim=1)
    bounds = torch.tensor([policy.bounds[name] for name in policy.groups])[group]
    clipped = grads * (bounds / norms).clamp(max=1.0)[:, None]
    picked = {name: group == k for k, name in enumerate(GROUPS)} | {"": group >= 0}
    return {
        ("train", name, metric): value
        for name, mine in picked.items()
        for metric, value in expected_of(grads[mine], clipped[mine], (norms > bounds)[mine], clipped.sum(0)).items()
    }


def indices_of(size: int = SIZE, records: int = RECORDS) -> list[int]:
    return sorted(np.random.default_rng(0).choice(size, min(size, records), replace=False).tolist())


def law_equals_a_loop(**strategy: Any) -> None:
    """Norms, clipping, contributions and directions, absent group and all, at the policy's present thresholds."""
    policy, module = GroupQuantile(quantile=0.4, start=0.7, noise_multiplier=0.1), Net()
    fit(public(), policy, module, strategy=strategy)
    assert len(set(policy.bounds.values())) > 1
    outcomes = ("accuracy", "loss")
    found = {k: v for k, v in rows().items() if k[0] == "train" and k[2] not in outcomes}
    same(found, oracle(module, policy, indices_of()))


@pytest.mark.parametrize("strategy", [{}, {"physical_batch_size": 64}, {"grads": "vmap"}, {"grads": "loop"}])
def test_figures_equal_a_loop(strategy: dict[str, Any]) -> None:
    law_equals_a_loop(**strategy)


def _spread(self: Any, gradients: Any, group: Tensor) -> None:
    added(self, gradients, torch.zeros_like(group))


added = Tally.add
weighed = clipping_effect.weigh


def _unclipped(*given: Any) -> Any:
    found = weighed(*given)
    return found._replace(weights=torch.ones_like(found.weights))


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (Tally, "add", _spread),
        (clipping_effect, "weigh", _unclipped),
        (
            clipping_effect,
            "directions",
            lambda g, c, t: {"direction_cosine": 1.0, "direction_error": 0.0, "steering_cosine": 1.0},
        ),
        (sample, "SEED", 1),
    ],
    ids=["groups mixed", "nothing clipped", "no direction", "another sample"],
)
def test_mutant_figures(where: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError):
        law_equals_a_loop()


def test_mutant_measured_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = sample.apart
    monkeypatch.setattr(sample, "apart", lambda module: apart(module).train())
    with pytest.raises(AssertionError):
        law_equals_a_loop()


class PerPart(ClippingPolicy):
    """Each parameter's part to 0.9; a stand-in for policies that weigh parameter by parameter."""

    per_parameter = True
    bound = 1.8

    def weights(self, norms: Tensor, group: Tensor) -> Tensor:
        assert norms.dim() == 2
        return clip(norms, 0.9)


def tallied(policy: ClippingPolicy, batch: dict[str, Tensor], module: Any) -> dict[tuple[str, str], float]:
    with Tape(module.net, len(batch["x"])) as tape:
        losses = module.losses(batch)
    if not policy.groups:
        policy.declare(GROUPS)
    tally = Tally(policy, GROUPS, rate=0.1)
    tally.add(tape.backward(losses), batch["group"])
    return {(row.group, row.metric): row.value for row in tally.rows()}


def batch_of(n: int = 24) -> dict[str, Tensor]:
    data = Data(n)
    return {"x": data.x, "y": data.y, "group": data.group}


def law_per_parameter() -> None:
    """Each parameter's part is weighed by its own norm; a record is clipped if one of its parts is."""
    module, batch = Net().eval(), batch_of()
    found = tallied(PerPart(), batch, module)
    parts = loop_gradients(module, lambda i: module.losses({k: v[i : i + 1] for k, v in batch.items()}), 24)
    norms = {name: g.double().flatten(1).norm(dim=1) for name, g in parts.items()}
    kept = {
        name: g.double() * (0.9 / norms[name]).clamp(max=1.0).view(-1, *[1] * (g.dim() - 1))
        for name, g in parts.items()
    }
    over = torch.stack([n > 0.9 for n in norms.values()]).any(0)
    assert 0 < over.double().mean() < 1
    grads, clipped = flat(parts), flat(kept)
    for k, name in enumerate(GROUPS):
        mine = batch["group"] == k
        expected = expected_of(grads[mine], clipped[mine], over[mine], clipped.sum(0))
        same({m: v for (g, m), v in found.items() if g == name}, expected)


def test_policies_by_parameter() -> None:
    law_per_parameter()


def test_mutant_parameters_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    given = clipping_effect._weighted_sum
    monkeypatch.setattr(clipping_effect, "_weighted_sum", lambda gradients, weights: given(gradients, weights.flip(0)))
    with pytest.raises(AssertionError):
        law_per_parameter()


def test_a_policy_that_scales_everything_clips_everyone() -> None:
    assert tallied(Automatic.example(GROUPS), batch_of(), Net().eval())["a", "clipped"] == 1.0


def law_rates_steer() -> None:
    """A group that is drawn twice as often counts twice in the sum that others are led by."""
    module, batch = Net().eval(), batch_of()
    found = tallied(GroupRates({"a": 1.0, "b": 2.0, "c": 0.5, "absent": 4.0}, 0.5), batch, module)
    grads = flat(loop_gradients(module, lambda i: module.losses({k: v[i : i + 1] for k, v in batch.items()}), 24))
    rates = torch.tensor([1.0, 2.0, 0.5])[batch["group"]].double()
    total = (grads * (rates * (0.5 / grads.norm(dim=1)).clamp(max=1.0))[:, None]).sum(0)
    for k, name in enumerate(GROUPS[:3]):
        led = angle(total, grads[batch["group"] == k].mean(0))
        assert abs(found[name, "steering_cosine"] - led) < 1e-5
    assert abs(found["", "direction_cosine"] - angle(total, grads.mean(0))) < 1e-5


def test_rates_by_group_steer() -> None:
    law_rates_steer()


def test_mutant_all_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupRates, "rates", lambda self, rate: None)
    with pytest.raises(AssertionError):
        law_rates_steer()


@pytest.mark.parametrize("kind", policies(), ids=lambda kind: kind.__name__)
def test_every_policy_can_be_measured(kind: type[ClippingPolicy]) -> None:
    for policy in kind.examples(GROUPS):
        module = Net().eval()
        policy.prepare([name for name, _ in module.net.named_parameters()], 24.0)
        before = copy.deepcopy((policy.state_dict(), policy.bound))
        found = tallied(policy, batch_of(), module)
        assert (policy.state_dict(), policy.bound) == before
        assert all(math.isfinite(value) for (group, _), value in found.items() if group != "absent")
        assert found["", "contribution"] <= policy.bound * (1 + 1e-5)


def test_a_gradient_that_is_not_finite_is_counted_and_left_out() -> None:
    batch, module = batch_of(), Net().eval()
    whole = {k: v[3:] for k, v in batch.items()}
    clean = tallied(Flat(0.5), whole, module)
    batch["x"][:3] = torch.tensor([math.nan, math.inf, 1e38])[:, None]
    found = tallied(Flat(0.5), batch, module)
    assert found["a", "not_finite"] == pytest.approx(1 / 8)
    assert found["", "contribution"] == pytest.approx(clean["", "contribution"] * 21 / 24)
    for metric in ("norm_mean", "norm_q3", "direction_cosine", "steering_cosine"):
        assert found["", metric] == pytest.approx(clean["", metric], rel=1e-5)


def test_directions_of_nothing_and_of_opposites() -> None:
    one, zero = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}
    back = {"w": -one["w"]}
    assert clipping_effect.directions(one, back, one) == {
        "direction_cosine": -1.0,
        "direction_error": 1.0,
        "steering_cosine": 1.0,
    }
    assert clipping_effect.directions(one, zero, zero)["direction_error"] == 1.0
    assert all(math.isnan(value) for value in clipping_effect.directions(zero, zero, zero).values())


# ---- the generalisation gap


def accuracy(module: Any, data: Data, indices: Any, group: int) -> float:
    chosen = [i for i in indices if data.group[i] == group]
    return float((module.net(data.x[chosen]).argmax(1) == data.y[chosen]).double().mean())


def test_the_gap_is_that_of_the_sample_and_the_validation_split() -> None:
    module = Net()
    fit(public(every=2), module=module, max_epochs=2)
    module.eval()
    found = rows(epoch=1)
    for k, name in enumerate(GROUPS[:3]):
        train, validation = accuracy(module, Data(SIZE), indices_of(), k), accuracy(module, Data(30), range(30), k)
        assert found["train", name, "accuracy"] == pytest.approx(train)
        assert found["validation", name, "accuracy"] == pytest.approx(validation)
        assert found["train minus validation", name, "accuracy"] == pytest.approx(train - validation)
    assert found["validation", "", "n"] == 30
    chosen = Data(SIZE).x[indices_of()], Data(SIZE).y[indices_of()]
    loss = F.cross_entropy(module.net(chosen[0]), chosen[1]).item()
    assert found["train", "", "loss"] == pytest.approx(loss, rel=1e-5)
    assert math.isnan(found["train minus validation", "absent", "loss"])


class Writer(Net):
    """Says what a language model says."""

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.losses(batch), "tokens": 1 + batch["y"]}


def test_the_gap_of_a_language_model_is_of_losses_and_perplexities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "save", save)
    module = Writer()
    fit(public(), module=module)
    module.eval()
    found, expected = rows(), {}
    for split, data, chosen in (("train", Data(SIZE), indices_of()), ("validation", Data(30), range(30))):
        at = [i for i in chosen if data.group[i] == 0]
        losses = F.cross_entropy(module.net(data.x[at]), data.y[at], reduction="none").detach()
        expected[split] = float(((losses * (1 + data.y[at])).sum() / (1 + data.y[at]).sum()).exp())
        assert found[split, "a", "perplexity"] == pytest.approx(expected[split], rel=1e-5)
        assert found[split, "a", "loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    gap = expected["train"] - expected["validation"]
    assert found["train minus validation", "a", "perplexity"] == pytest.approx(gap, abs=1e-4)
    assert not any(metric == "accuracy" for _, _, metric in found)
    assert Path("diagnostics.png").is_file()


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 2}])
def test_without_a_validation_at_the_epochs_end_there_is_no_gap(options: dict[str, Any]) -> None:
    fit(public(), max_epochs=2 if options.get("check_val_every_n_epoch") else 1, **options)
    found = rows()
    assert math.isnan(found["train minus validation", "a", "accuracy"])
    assert found["train", "a", "norm_mean"] > 0


class Averaged(Callback):
    """Validates under other weights, as weight averaging does."""

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.kept = {k: v.clone() for k, v in pl_module.net.state_dict().items()}
        for p in pl_module.net.parameters():
            p.data.zero_()
        pl_module.net[3].bias.data[1] = 1.0

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net.load_state_dict(self.kept)


def test_both_sides_of_the_gap_have_the_weights_of_validation() -> None:
    fit(public(), callbacks=(Averaged(),))
    data, chosen = Data(SIZE), torch.tensor(indices_of())
    assert rows()["train", "", "accuracy"] == pytest.approx(float((data.y[chosen] == 1).double().mean()))


# ---- it leaves no trace


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
    run = fit(diagnostics, policy, module, Jittered(SIZE), callbacks=(watch,), batch=SIZE, max_epochs=2)
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
    def careless(module: Any, losses: Any, batch: Any, examples: int) -> Any:
        losses(batch, examples).sum().backward()
        yield from engine(module, losses, batch, examples)

    engine = sample.BACKENDS["tape"]
    monkeypatch.setattr(sample, "ENGINES", {"tape": careless})
    with pytest.raises(AssertionError):
        law_without_a_trace()


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


# ---- where it goes, and what is refused


def test_the_statement_names_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "save", save)
    run = fit(public())
    released = json.loads(Path("privacy.json").read_text())["released_without_charge"]
    assert [line.split(" (")[0] for line in released if line.startswith("diagnostics")] == [
        "diagnostics.csv",
        "diagnostics.png",
    ]
    assert all("declared public" in line for line in released if line.startswith("diagnostics"))
    assert Path("diagnostics.png").read_bytes().startswith(b"\x89PNG")
    assert not any("diagnostics" in name for name in run.callback_metrics)


def test_a_picture_of_what_is_not_defined() -> None:
    names = ["n", "norm_q1", "norm_median", "norm_q3", "clipped", "contribution", "direction_error", "steering_cosine"]
    nothing = tuple(Row(metric, "$a", math.nan) for metric in [*names, "accuracy"])
    look = Snapshot(0, 1, "train", ("$a",), nothing)
    figure = draw([look], [look])
    save(figure, Path("empty.png"))
    assert len(figure.axes) == 6
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["not defined"] * 6


def test_each_fit_has_its_own_file_and_epochs_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    diagnostics = public(every=2)
    fit(diagnostics, max_epochs=5)
    fit(diagnostics, max_epochs=2)
    with Path("diagnostics.csv").open() as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"1", "3"}
    assert len(rows("diagnostics-1.csv", 1)) == len(rows(epoch=1))
    assert diagnostics.released_without_charge()[0].startswith("diagnostics-1.csv (")
    assert "a" not in capsys.readouterr().out.split()


def test_nothing_was_measured_nothing_is_written() -> None:
    diagnostics = public(every=3)
    fit(diagnostics, max_epochs=2)
    fit(public(), fast_dev_run=True)
    assert not list(Path().glob("diagnostics*"))
    assert diagnostics.released_without_charge() == []


@pytest.mark.parametrize("said", [{}, {"declared_public": False}, {"declared_public": "yes"}])
def test_private_data_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^declared_public=.*without charge; .*set declared_public=True.*$"
    ) as no:
        SubgroupDiagnostics(**said)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("setting", [{"every": 0}, {"records": 0}, {"every": True}, {"records": 2.5}])
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="whole number of at least 1"):
        public(**setting)


def test_plain_training_and_undeclared_groups_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="measures the clipping of DPStrategy"):
        trainer("auto", callbacks=[public()]).fit(Linear(), DataLoader(Data(), batch_size=8))
    with pytest.raises(ConfigurationError, match="no groups to tell apart"):
        fit(public(), strategy={"groups": None})


def test_a_batch_without_groups_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no group entry 'sex'"):
        fit(public(), strategy={"group": "sex"})


def test_records_that_are_clipped_together_are_refused() -> None:
    strategy = dplit.DPStrategy(noise=1.0, group="group", groups=GROUPS)
    loader = DataLoader(Copies(Data(), lambda sample: [sample]), batch_size=8)
    with pytest.raises(ConfigurationError, match="single records, but here"):
        trainer(strategy, callbacks=[public()]).fit(Net(), loader, DataLoader(Data(), batch_size=8))
    assert strategy.ledger.steps == 0
