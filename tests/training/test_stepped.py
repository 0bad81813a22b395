"""What the optimizer does not step on is as good as frozen: a fit is the same, clip and noise included."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn
from torch.utils.data import DataLoader

import dplit
from dplit.clipping import ClippingPolicy, Flat, PerLayer
from dplit.errors import ConfigurationError
from dplit.training import private_fit
from dplit.training.stepped import idle_frozen, idle_parameters, warn_of_idle
from tests.lightning import SIZE, Data, Linear, fit

NAMES = ("net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias", "net.4.weight", "net.4.bias")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Deep(Linear):
    """Three layers, of which the optimizer steps on some parameters."""

    def __init__(self, stepped: set[str], frozen: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        self.stepped = stepped
        for name, p in self.named_parameters():
            p.requires_grad_(name in stepped or not frozen)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for name, p in self.named_parameters() if name in self.stepped], lr=1.0)


def after(model: Deep, policy: ClippingPolicy, grads: str = "tape") -> torch.Tensor:
    strategy = dplit.DPStrategy(policy, noise=0.5, noise_seed=3, grads=grads)
    fit(model, strategy, DataLoader(Data(), batch_size=SIZE), max_epochs=2)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def law_idle_is_frozen(stepped: set[str], policy: Any = Flat, grads: str = "tape") -> None:
    idle, frozen = Deep(stepped), Deep(stepped, frozen=True)
    start = torch.cat([p.detach().flatten() for p in idle.parameters()])
    found, want = after(idle, policy(0.1), grads), after(frozen, policy(0.1), grads)
    assert torch.equal(found, want)
    assert not torch.equal(found, start)
    assert all(p.requires_grad for p in idle.parameters())


@pytest.mark.filterwarnings("ignore:the optimizer steps on")
@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.sets(st.sampled_from(NAMES), min_size=1), st.sampled_from([Flat, PerLayer]))
def test_what_is_idle_is_as_good_as_frozen(stepped: set[str], policy: Any) -> None:
    law_idle_is_frozen(stepped, policy)


@pytest.mark.filterwarnings("ignore:the optimizer steps on")
@pytest.mark.parametrize("grads", ["vmap", "loop"])
def test_what_is_idle_is_as_good_as_frozen_by_every_backend(grads: str) -> None:
    law_idle_is_frozen({"net.4.weight", "net.4.bias"}, Flat, grads)


@pytest.mark.filterwarnings("ignore:the optimizer steps on")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_mutant_in_which_idle_parameters_use_up_the_clip_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (private_fit, __import__("dplit.training.strategies.private", fromlist=["x"])):
        monkeypatch.setattr(where, "idle_frozen", lambda *given: nullcontext())
    with pytest.raises(AssertionError):
        law_idle_is_frozen({"net.4.weight"})


class Later(BaseFinetuning):
    """Gives the body to the optimizer after the first epoch, as fine-tuning schedules do."""

    def freeze_before_training(self, module: Any) -> None:
        self.freeze(module.net[0])

    def finetune_function(self, module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.net[0], optimizer, lr=1.0)


class Adds(Callback):
    """The same by hand, of a body that was never frozen."""

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            trainer.optimizers[0].add_param_group(
                {"params": [p for p in module.net[0].parameters() if p.requires_grad]}
            )


class Watch(Callback):
    def __init__(self) -> None:
        self.moved: list[bool] = []

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.before = module.net[0].weight.detach().clone()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.moved.append(not torch.equal(self.before, module.net[0].weight))


@pytest.mark.filterwarnings("ignore:the optimizer steps on")
@pytest.mark.parametrize("unfreezes", [Later, Adds])
def test_what_the_optimizer_is_given_later_is_trained_from_then_on(unfreezes: Any) -> None:
    watch = Watch()
    fit(Deep({*NAMES[2:]}), callbacks=[unfreezes(), watch], max_epochs=3)
    assert watch.moved == [False, True, True]


def test_the_person_is_told_once_which() -> None:
    with pytest.warns(UserWarning, match="the optimizer steps on") as told:
        fit(Deep({"net.4.bias"}), max_epochs=2)
    (line,) = [str(w.message) for w in told if "the optimizer steps on" in str(w.message)]
    assert line.startswith("the optimizer steps on 1 of 6 trainable parameters; the others (net.0.weight, net.0.bias,")
    assert "\n" not in line


def test_nothing_is_said_where_all_are_stepped(recwarn: pytest.WarningsRecorder) -> None:
    module = Deep({*NAMES})
    warn_of_idle(module, [module.configure_optimizers()])
    assert not recwarn
    assert not idle_parameters(module, [module.configure_optimizers()])


def test_flags_are_put_back_after_a_failure() -> None:
    module = Deep({"net.0.bias"})

    def fails() -> None:
        with idle_frozen(module, [module.configure_optimizers()]):
            assert [p.requires_grad for p in module.parameters()] == [False, True, False, False, False, False]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert all(p.requires_grad for p in module.parameters())


def test_an_optimizer_of_frozen_parameters_alone_is_refused() -> None:
    module = Deep({"net.0.weight"})
    module.net[0].weight.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="steps on frozen parameters alone"):
        fit(module)
