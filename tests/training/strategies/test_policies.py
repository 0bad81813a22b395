"""Policies inside a fit: every one trains, is charged, and comes back from a checkpoint."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader, Subset

import dplit
from dplit.clipping import GroupRates, GroupThresholds, PerLayer, PerLayerAdaptive, Quantile
from dplit.errors import ConfigurationError, DplitError, PrivacyError
from dplit.training.sensitivity import bounded
from tests.clipping.laws import GROUPS, instances
from tests.lightning import BATCH, SIZE, Data, Linear, fit, loader, trainer

RATE = BATCH / SIZE


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Deep(Linear):
    """Parameters named 0.weight, 0.bias, 2.weight and 2.bias, as the policies' examples have their blocks."""

    def __init__(self) -> None:
        super().__init__()
        del self.net
        for name, layer in (("0", nn.Linear(6, 4)), ("1", nn.Tanh()), ("2", nn.Linear(4, 3))):
            self.add_module(name, layer)

    def losses(self, batch: Any) -> Any:
        found = batch["x"]
        for layer in self.children():
            found = layer(found)
        return F.cross_entropy(found, batch["y"], reduction="none")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def private(policy: Any, noise: Any = 1.0, **options: Any) -> dplit.DPStrategy:
    return dplit.DPStrategy(policy, noise, groups=GROUPS, physical_batch_size=5, **options)


@pytest.mark.parametrize("make", instances(prepared=False))
def test_every_policy_trains_to_its_target(make: Any) -> None:
    strategy = private(make(), dplit.Target(2.0, 1e-5))
    run = fit(Deep(), strategy, max_epochs=3)
    assert run.global_step == strategy.ledger.steps == 12
    spent = strategy.spent()
    assert 1.9 <= spent.epsilon <= 2.0
    caps = strategy.policy.caps
    assert (spent.by_group is None) == (caps is None)
    assert max((spent.by_group or {"": spent.epsilon}).values()) == spent.epsilon


class Look(Callback):
    """Notes the policy's state at the start."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.state = trainer.strategy.policy.state_dict()


@pytest.mark.parametrize("make", instances(prepared=False))
def test_every_policy_comes_back_from_a_checkpoint(make: Any) -> None:
    first, again, look = private(make()), private(make()), Look()
    fit(Deep(), first, max_epochs=2).save_checkpoint("kept.ckpt")
    learnt = first.policy.state_dict()
    trainer(again, max_epochs=3, callbacks=[look]).fit(Deep(), loader(), ckpt_path="kept.ckpt")
    assert look.state == learnt
    assert again.ledger.steps == 12


class Drawn(Callback):
    """Counts the records of each group that are drawn; others are read to look at them."""

    def __init__(self) -> None:
        self.by_group = torch.zeros(3)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        for part in batch.parts:
            self.by_group += torch.bincount(part.batch["group"], minlength=3)


@pytest.mark.slow
def test_rates_by_group_are_drawn_and_charged() -> None:

    factors = {"north": 0.25, "east": 1.0, "south": 4.0}
    strategy, drawn = private(GroupRates(factors)), Drawn()
    fit(Linear(), strategy, DataLoader(Data(300), batch_size=15), max_epochs=30, callbacks=[drawn])
    (event,) = strategy.ledger.entries["train"]
    assert event.rate == 0.2
    assert {g: event.for_group(g).rate for g in GROUPS} == {"north": 0.0125, "east": 0.05, "south": 0.2}
    rates = drawn.by_group / 100 / strategy.ledger.steps
    assert rates.tolist() == pytest.approx([0.0125, 0.05, 0.2], rel=0.15)
    spent = strategy.spent()
    assert spent.by_group["north"] < spent.by_group["east"] < spent.by_group["south"] == spent.epsilon
    stated = json.loads(Path("privacy.json").read_text())
    assert "rates by group: north 0.0125, east 0.05, south 0.2" in stated["sampling"]["scheme"]
    assert stated["sampling"]["rate"] is None


def test_a_rate_over_1_is_refused_before_training() -> None:
    strategy = private(GroupRates({"north": 1.0, "east": 1.0, "south": 5.0}))
    with pytest.raises(ConfigurationError, match=r"probability of 1\.25"):
        fit(Linear(), strategy)
    assert strategy.ledger.steps == 0


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (GroupThresholds({"north": 1.0, "east": 1.0, "west": 1.0}), "west"),
        (PerLayer(blocks=["0"]), "is in none of the blocks"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(policy: Any, says: str) -> None:
    strategy = private(policy)
    with pytest.raises(ConfigurationError, match=says) as caught:
        fit(Deep(), strategy)
    assert "\n" not in str(caught.value)
    assert strategy.ledger.steps == 0


def test_an_epsilon_that_cannot_be_reached_is_refused_before_training() -> None:
    strategy = private(Quantile(noise_multiplier=0.3), dplit.Target(0.1, 1e-5))
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        fit(Linear(), strategy)
    assert strategy.ledger.steps == 0


def test_per_layer_is_the_sum_of_parameters_clipped_one_by_one() -> None:
    torch.manual_seed(0)
    data, module = Data(), Deep()
    before = [p.detach().clone() for p in module.parameters()]
    expected = [torch.zeros_like(p) for p in before]
    each = 0.5 / 4**0.5
    for i in range(SIZE):
        losses = module.losses({"x": data.x[i : i + 1], "y": data.y[i : i + 1]})
        for total, grad in zip(expected, torch.autograd.grad(losses.sum(), list(module.parameters())), strict=True):
            total += grad * min(1.0, each / float(grad.norm()))
    fit(module, private(PerLayer(0.5), 1e-9), loader(SIZE, SIZE), max_epochs=1)
    for p, start, total in zip(module.parameters(), before, expected, strict=True):
        assert torch.allclose(p, start - 0.1 * total / SIZE, atol=1e-6)


def test_adaptive_layers_keep_their_thresholds_by_name() -> None:
    strategy = private(PerLayerAdaptive(0.5))
    fit(Deep(), strategy)
    assert set(strategy.policy.state_dict()["bounds"]) == {name for name, _ in Deep().named_parameters()}


class Spoilt(Data):
    """One record is not a number, in the last layer's input only."""

    def __getitem__(self, i: int) -> Any:
        found = super().__getitem__(i)
        return found | {"scale": torch.tensor(float("inf") if i == 5 else 1.0)}


class Scaled(Deep):
    def losses(self, batch: Any) -> Any:
        return super().losses(batch) * batch["scale"]


def test_one_bad_example_contributes_nothing_to_any_layer() -> None:
    torch.manual_seed(0)
    module = Scaled()
    good = DataLoader(torch.utils.data.Subset(Spoilt(), [i for i in range(SIZE) if i != 5]), batch_size=SIZE - 1)
    other = copy.deepcopy(module)
    fit(module, private(PerLayer(0.5), 1e-9), DataLoader(Spoilt(), batch_size=SIZE), max_epochs=1)
    fit(other, private(PerLayer(0.5), 1e-9), good, max_epochs=1)
    ratio = (SIZE - 1) / SIZE
    for p, q, start in zip(module.parameters(), other.parameters(), start_of_scaled(), strict=True):
        assert torch.all(p.isfinite())
        assert torch.allclose(p - start, ratio * (q - start), atol=1e-6)


def start_of_scaled() -> list[Any]:
    torch.manual_seed(0)
    return [p.detach() for p in Scaled().parameters()]


class Rewriting(Linear):
    """Writes into its batch, as scaling in place does; a second look at the batch would see other inputs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch["x"] = batch["x"] * 10
        return self.losses(batch)


def fits(policy: Any) -> bool:
    """Whether a policy's example can draw every record of a model without blocks."""
    return not getattr(policy, "blocks", None) and not hasattr(policy, "factors")


whole = [case for case in instances(prepared=False) if fits(case.values[0]())]


@pytest.mark.parametrize("make", whole)
def test_one_bad_record_does_not_touch_the_others_in_a_step_that_writes_into_its_batch(make: Any) -> None:
    """A feature of 1e25 overflows the norm of one parameter and not of the other."""
    sums = []
    for kept in (range(SIZE), [i for i in range(SIZE) if i != 5]):
        data = Data()
        data.x[5] = torch.tensor([1e25, 0, 0, 0, 0, 0])
        torch.manual_seed(0)
        module = Rewriting()
        start = torch.cat([p.detach().flatten() for p in module.parameters()])
        fit(module, private(make(), 1e-12), DataLoader(Subset(data, kept), batch_size=len(kept)))
        after = torch.cat([p.detach().flatten() for p in module.parameters()])
        sums.append((after - start).double() * len(kept) / 0.1)
    assert float((sums[0] - sums[1]).norm()) <= 1e-3


def test_a_policy_learns_under_one_ledger_only() -> None:
    """What it learnt from one fit's records must not steer another's, whose ledger would not know."""
    policy = Quantile(noise_multiplier=1.0)
    first = private(policy)
    fit(Linear(), first)
    assert policy.bound != 1.0
    with pytest.raises(PrivacyError, match="under another ledger"):
        fit(Linear(), private(policy))
    further = private(policy, ledger=first.ledger)
    fit(Linear(), further)
    assert further.ledger.steps == 8


class Sorted(GroupRates):
    """Speaks of its groups in another order than they were declared in."""

    @property
    def caps(self) -> Any:
        return dict(sorted({"north": 0.5, "east": 0.25, "south": 1.0}.items()))

    def rates(self, rate: float) -> Any:
        return dict(sorted(super().rates(rate).items()))


@pytest.mark.slow
def test_groups_are_meant_by_name_in_whatever_order() -> None:
    factors = {"north": 0.25, "east": 1.0, "south": 4.0}
    strategy, drawn = private(Sorted(factors)), Drawn()
    fit(Linear(), strategy, DataLoader(Data(300), batch_size=15), max_epochs=30, callbacks=[drawn])
    (event,) = strategy.ledger.entries["train"]
    assert {g: event.for_group(g).rate for g in GROUPS} == {"north": 0.0125, "east": 0.05, "south": 0.2}
    rates = drawn.by_group / 100 / strategy.ledger.steps
    assert rates.tolist() == pytest.approx([0.0125, 0.05, 0.2], rel=0.15)
    ratios = [ratio for _, ratio in strategy.private_fit.step._charge.sensitivity_ratios]
    held = bounded(torch.full((3,), 9.0), torch.ones(3), torch.arange(3), strategy.policy.bound, ratios)
    assert held.tolist() == [0.5, 0.25, 1.0]


def test_groups_that_were_not_declared_are_refused_by_name() -> None:
    class Other(GroupRates):
        def rates(self, rate: float) -> Any:
            return {"north": rate, "west": rate}

    with pytest.raises(DplitError, match="west"):
        fit(Linear(), private(Other(dict.fromkeys(GROUPS, 1.0))))
