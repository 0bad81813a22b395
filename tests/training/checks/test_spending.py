"""Spending is known by the parameters it was spent on, in whatever module, object or copy they are."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader

import dplit
from dplit.errors import PrivacyError
from dplit.privacy import Gaussian, Ledger
from dplit.training.checks import spending
from dplit.training.checks.ledger import check_ledger
from tests.lightning import Data, Linear, fit


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of(net: nn.Module) -> Linear:
    module = Linear()
    module.net = net
    return module


def with_weight(weight: nn.Parameter) -> Linear:
    net = nn.Linear(6, 3)
    net.weight = weight
    return of(net)


class Direct(Linear):
    """Parameters are attributes of the LightningModule itself."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        del self.net
        self.weight = weight
        self.net = lambda x: nn.functional.linear(x, self.weight)  # type: ignore[assignment]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.weight], lr=0.1)


class Listed(Direct):
    """Parameters in a list."""

    def __init__(self, weight: Any) -> None:
        super().__init__(weight)
        del self.weight
        self.weights = nn.ParameterList([weight])
        self.net = lambda x: nn.functional.linear(x, self.weights[0])  # type: ignore[assignment]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loaded(module: Linear, state: dict[str, Any]) -> Linear:
    module.load_state_dict(state)
    return module


def through_a_file(trained: Linear) -> Linear:
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    return loaded(Linear(), torch.load(file, weights_only=True))


def frozen(net: nn.Module) -> Linear:
    return of(nn.Sequential(net.requires_grad_(False), nn.Linear(3, 3)))


AGAIN: dict[str, Callable[[Linear], Linear]] = {
    "the same module": lambda trained: trained,
    "the same layers in another module": lambda trained: of(trained.net),
    "the same parameter in another layer": lambda trained: with_weight(trained.net.weight),
    "another parameter in the same memory": lambda trained: with_weight(nn.Parameter(trained.net.weight.data)),
    "a part of the same memory": lambda trained: with_weight(
        nn.Parameter(trained.net.weight.data.flatten().view(3, 6))
    ),
    "a deep copy": copy.deepcopy,
    "a deep copy of the layer": lambda trained: of(copy.deepcopy(trained.net)),
    "a deep copy of the parameter": lambda trained: with_weight(copy.deepcopy(trained.net.weight)),
    "a clone": lambda trained: with_weight(nn.Parameter(trained.net.weight.detach().clone())),
    "a clone in float64": lambda trained: of(copy.deepcopy(trained.net).double()),
    "through pickle": lambda trained: of(pickle.loads(pickle.dumps(trained.net))),
    "a state_dict": lambda trained: loaded(Linear(), trained.state_dict()),
    "a state_dict in a file": through_a_file,
    "direct attributes": lambda trained: Direct(trained.net.weight),
    "a copy as a direct attribute": lambda trained: Direct(nn.Parameter(trained.net.weight.detach().clone())),
    "a list": lambda trained: Listed(nn.Parameter(trained.net.weight.detach().clone())),
    "frozen beneath a new layer": lambda trained: frozen(trained.net),
    "frozen, in another layer": lambda trained: frozen(with_weight(copy.deepcopy(trained.net.weight)).net),
}


def law_spending_is_known(again: Callable[[Linear], Linear]) -> None:
    trained = Linear()
    fit(trained, dplit.DPStrategy(noise=2.0))
    with pytest.raises(PrivacyError, match=r"^this model, or a part of it, was trained under another ledger[^\n]*$"):
        check_ledger(again(trained), dplit.clipping.Flat(), Ledger(), None)


@pytest.mark.parametrize("name", AGAIN)
def test_spending_is_known(name: str) -> None:
    law_spending_is_known(AGAIN[name])


MUTANTS = {
    "marks of layers only": {"_run_of_parameter": lambda parameter: None},
    "objects only": {"fingerprint": lambda parameter: None, "_run_of_memory": lambda parameter: None},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function, broken in MUTANTS[name].items():
        monkeypatch.setattr(spending, function, broken)
    with pytest.raises(pytest.fail.Exception):
        law_spending_is_known(AGAIN["a clone"])


@pytest.mark.parametrize("make", [Direct, Listed])
def test_parameters_outside_layers_are_trained_and_known(make: Any) -> None:
    module = make(nn.Parameter(torch.randn(3, 6)))
    fit(module, dplit.DPStrategy(noise=2.0))
    with pytest.raises(PrivacyError, match="another ledger"):
        fit(module, dplit.DPStrategy(noise=2.0))
    with pytest.raises(PrivacyError, match="another ledger"):
        fit(with_weight(nn.Parameter(next(module.parameters()).detach().clone())), dplit.DPStrategy(noise=2.0))


def test_what_was_frozen_in_the_first_fit_may_be_trained_by_another_without_it() -> None:
    body = nn.Linear(6, 3).requires_grad_(False)
    fit(of(nn.Sequential(body, nn.Linear(3, 3))), dplit.DPStrategy())
    fit(of(nn.Sequential(body.requires_grad_(True), nn.Linear(3, 3))), dplit.DPStrategy())


def test_weights_of_a_checkpoint_are_known() -> None:
    """Those of the middle of a fit, when it has gone on."""

    class Save(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint("first.ckpt")

    fit(strategy=dplit.DPStrategy(noise=2.0), max_epochs=3, callbacks=[Save()])
    module = loaded(Linear(), torch.load("first.ckpt", weights_only=True)["state_dict"])
    with pytest.raises(PrivacyError, match="another ledger"):
        fit(module, dplit.DPStrategy(noise=2.0))


def test_what_training_did_not_change_is_free() -> None:
    """The same pretrained weights are where two fits begin; a layer that the optimizer leaves alone stays as it was."""
    start = {name: value.clone() for name, value in Linear().state_dict().items()}
    for _ in range(2):
        module = loaded(Linear(), start)
        fit(module, dplit.DPStrategy(noise=2.0))
    module = loaded(Linear(learning_rate=0.0), start)
    fit(module, dplit.DPStrategy(noise=2.0))
    fit(loaded(Linear(), module.state_dict()), dplit.DPStrategy(noise=2.0))


def test_equal_constants_are_not_taken_for_trained_ones() -> None:
    assert spending.fingerprint(torch.zeros(5)) is None
    assert spending.fingerprint(torch.ones(1)) is None
    assert spending.fingerprint(torch.empty(3, device="meta")) is None
    value = torch.randn(3, 4, dtype=torch.bfloat16)
    assert spending.fingerprint(value) == spending.fingerprint(value.double().reshape(4, 3))
    assert spending.fingerprint(value) != spending.fingerprint(value + 1)
    assert spending.fingerprint(torch.randn(3, dtype=torch.complex64)) is not None


@pytest.mark.parametrize("size", [2, 3, *(spending.SAMPLED + k for k in (-1, 0, 1)), 1000, 2**24 + 3, 28_311_552])
def test_a_fingerprint_looks_at_both_ends_whatever_the_size(size: int) -> None:
    """Beyond 2^24 a float32 does not tell one place from the next."""
    weight = torch.zeros(size)
    keys = set()
    for end in (0, -1):
        weight[end] = 1.0
        keys.add(spending.fingerprint(weight))
        weight[end] = 0.0
    assert len(keys - {None}) == 2


def test_the_ledger_that_counts_it_goes_on() -> None:
    trained, strategy = Linear(), dplit.DPStrategy(noise=2.0)
    fit(trained, strategy)
    for again in AGAIN.values():
        check_ledger(again(trained), dplit.clipping.Flat(), strategy.ledger, None)


def test_a_branch_of_the_run_that_knows_less_is_refused() -> None:
    """Two ledgers of one run id, as two copies of a run folder are: each counts its own steps alone."""
    state, trained = Ledger().state_dict(), Linear()
    fit(trained, dplit.DPStrategy(noise=2.0, ledger=Ledger.resume(state, None)), default_root_dir="one")
    with pytest.raises(PrivacyError, match="another ledger"):
        fit(trained, dplit.DPStrategy(noise=2.0, ledger=Ledger.resume(state, None)), default_root_dir="two")


def test_memory_that_was_freed_and_used_again_is_not_taken_for_trained() -> None:
    for _ in range(3):
        module = Linear()
        check_ledger(module, dplit.clipping.Flat(), Ledger(), None)
        del module
        gc.collect()


def test_old_values_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "MOST_VALUES", 3)
    monkeypatch.setattr(spending, "_by_value", spending.OrderedDict())
    for k in range(5):
        spending.remember_values([bytes([k])], str(k))
    assert list(spending._by_value) == [bytes([k]) for k in (2, 3, 4)]


def test_values_of_another_module_that_is_only_evaluated_are_not_this_runs() -> None:
    class Tested(Linear):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.losses(batch)

    stranger = Tested()
    fit(Tested(), dplit.DPStrategy(noise=2.0)).test(stranger, DataLoader(Data()), verbose=False)
    check_ledger(loaded(Linear(), stranger.state_dict()), dplit.clipping.Flat(), Ledger(), None)


def test_what_a_ledger_spent_is_remembered_at_least() -> None:
    ledger, less = Ledger(), Ledger()
    less.run_id = ledger.run_id
    ledger.record(Gaussian(1.0), times=3)
    spending.remember_spending(ledger)
    less.record(Gaussian(1.0), times=2)
    assert not spending.counts(less, ledger.run_id)
    less.record(Gaussian(1.0))
    assert spending.counts(less, ledger.run_id)
    assert not spending.counts(Ledger(), ledger.run_id)
