"""Fits on texts with their counterfactual copies: clipped as one, charged as one, private or not, from a recipe."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import dplit
from dplit.cli.commands import fit
from dplit.clipping import Flat, GroupRates
from dplit.models.sequence_classifier import SequenceClassifier
from tests.data.swapped import SWAPS, data, rows
from tests.lightning import trainer
from tests.models.tiny import folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Classifier(SequenceClassifier):
    """Plain gradient steps of one, so that a step's move is its gradient."""

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)


def model():
    torch.manual_seed(0)
    made = Classifier(folder("bert"), 2, save_to=None)
    made.configure_model()
    return made


def flat(tensors):
    return torch.cat([one.detach().flatten() for one in tensors]).double()


def stepped(strategy, made):
    """The one step of a fit in which everything is drawn, as a gradient of the sum."""
    module = model()
    weights = [p for p in module.parameters() if p.requires_grad]
    start = flat(weights)
    trainer(strategy, max_epochs=1, limit_val_batches=0).fit(module, datamodule=made)
    return start - flat(weights)


def clipped_means(made, sets, bound):
    """One backward a text, alone in its batch; meant over a unit, clipped, meant over the units; and the units' norms."""
    module = model()
    weights = [p for p in module.parameters() if p.requires_grad]
    total, norms = torch.zeros_like(flat(weights)), []
    for indices in sets:
        each = []
        for index in indices:
            batch = made.train.collate([index])
            each.append(flat(torch.autograd.grad(module._losses(module(batch), batch).sum(), weights)))
        grad = torch.stack(each).mean(0)
        norms.append(float(grad.norm()))
        total += grad * min(1.0, bound / norms[-1])
    return total / len(sets), norms


BOUND = 2.5


def law_a_text_and_its_copies_are_clipped_as_one(tmp_path, most, unit=None):
    made = data(tmp_path, batch_size=28, unit=unit, validation_fraction=0.2)
    n = len(made.train)
    sets = [list(made.train[i]) for i in range(n)]
    assert {len(one) for one in sets} == {1, 3}
    if unit is not None:
        whose = made.train.rows.unit[:n]
        sets = [[j for i in range(n) if whose[i] == who for j in sets[i]] for who in whose.unique()]
    made.batch_size = len(sets)
    strategy = dplit.DPStrategy(Flat(BOUND), 1e-9, most, unit=None if unit is None else "unit")
    found, (expected, norms) = stepped(strategy, made), clipped_means(made, sets, BOUND)
    assert min(norms) < BOUND < max(norms)
    assert float((found - expected).norm()) < 1e-4 * float(expected.norm())
    (event,) = strategy.ledger.entries["train"]
    assert (event.rate, strategy.ledger.steps) == (1.0, 1)


@pytest.mark.parametrize("most", [1, 8, 200])
def test_a_text_and_its_copies_are_clipped_as_one(tmp_path, most):
    law_a_text_and_its_copies_are_clipped_as_one(tmp_path, most)


def test_a_person_with_copies_of_all_texts_is_clipped_as_one(tmp_path):
    law_a_text_and_its_copies_are_clipped_as_one(tmp_path, 8, unit="user")


def test_mutant_copies_clipped_one_by_one_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("dplit.sampling.draws.owners", lambda samples: None)
    with pytest.raises(AssertionError):
        law_a_text_and_its_copies_are_clipped_as_one(tmp_path, 200)


def law_charged_as_without_copies(tmp_path):
    stated = []
    for swaps in (None, SWAPS):
        made = data(tmp_path, swaps=swaps)
        strategy = dplit.DPStrategy(Flat(), 1.0, 8, noise_seed=1)
        run = trainer(strategy, max_epochs=2, limit_val_batches=0, default_root_dir=tmp_path / str(swaps is None))
        run.fit(model(), datamodule=made)
        privacy = json.loads((tmp_path / str(swaps is None) / "privacy.json").read_text())
        stated.append((strategy.ledger.entries, strategy.spent(), privacy["dataset_size"], privacy["sampling"]))
    assert stated[0][0]["train"]
    assert stated[0] == stated[1]


@pytest.mark.slow
def test_charged_as_without_copies(tmp_path):
    law_charged_as_without_copies(tmp_path)


@pytest.mark.slow
def test_mutant_copies_as_records_of_their_own_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("dplit.data.texts.base.Counterfactuals", lambda rows, counts: rows)
    with pytest.raises(AssertionError):
        law_charged_as_without_copies(tmp_path)


def test_rates_by_group_and_several_workers(tmp_path):
    made = data(tmp_path, num_workers=2)
    policy = GroupRates({"I": 1.0, "II": 2.0, "III": 1.0})
    strategy = dplit.DPStrategy(policy, 1.0, 8, noise_seed=1)
    trainer(strategy, max_epochs=1, limit_val_batches=0, default_root_dir=tmp_path).fit(model(), datamodule=made)
    assert strategy.ledger.steps == 4


# Recipes

STRATEGY = {"class_path": "dplit.DPStrategy", "init_args": {"noise": 1.0, "physical_batch_size": 8}}


def recipe(tmp_path, strategy):
    rows().to_csv(tmp_path / "own.csv", index=False)
    init = {"train": str(tmp_path / "own.csv"), "groups": ["I", "II", "III"], "classes": ["no", "yes"]}
    init |= {"tokenizer": folder("bert"), "swaps": SWAPS, "batch_size": 8, "max_length": 12}
    whole = {
        "model": {"class_path": "dplit.models.text.SequenceClassifier", "init_args": {"model": folder("bert")}},
        "data": {"class_path": "dplit.data.texts.Texts", "init_args": init},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, **strategy},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(whole))
    return str(tmp_path / "own.yaml")


@pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "strategy", [{"strategy": STRATEGY}, {"strategy": "auto"}, {}], ids=["private", "auto", "none"]
)
def test_a_recipe_with_swaps_runs(tmp_path, capsys, strategy):
    assert fit.main([recipe(tmp_path, strategy)]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert (tmp_path / "runs/own/privacy.json").exists() == (strategy.get("strategy") is STRATEGY)


@pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("wrong", "says"), [("sex", "no list 'sex'"), ("3", "swaps")])
def test_a_recipe_with_wrong_swaps_gets_one_line(tmp_path, capsys, wrong, says):
    assert fit.main([recipe(tmp_path, {}), f"--data.init_args.swaps={wrong}"]) == 2
    line = capsys.readouterr().err.strip()
    assert says in line
    assert "\n" not in line
