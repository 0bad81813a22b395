"""Norms whose statistics are fixed train exactly, as in every pretrained ResNet, and stay fixed through a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dplit
from dplit.clipping import Flat
from dplit.errors import PrivacyError
from dplit.training.checks.model import FixedNorms
from tests.lightning import fit

pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # Lightning's, and here it is meant

N, BOUND = 5, 0.1
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 4, 6, 6, generator=GENERATOR)
DATA = TensorDataset(X, torch.arange(N) % 3)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class FrozenBatchNorm2d(nn.Module):
    """As torchvision has it: buffers, no parameters, whatever the mode."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels, generator=GENERATOR) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).view(1, -1, 1, 1)
        return x * scale + (self.bias.view(1, -1, 1, 1) - self.running_mean.view(1, -1, 1, 1) * scale)


class Block(nn.Module):
    """A residual block as in a ResNet."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([norm(4), norm(4)])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norms[1](self.second(F.relu(self.norms[0](self.first(x))))))


class Net(LightningModule):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(Block(norm), Block(norm))
        self.head = nn.Linear(4, 3)
        self.losses(DATA.tensors)
        for p in self.parameters():
            nn.init.normal_(p, std=0.4)

    def losses(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.head(self.body(batch[0]).mean((2, 3))), batch[1], reduction="none")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.losses(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)


def norms(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d)]


def fixed(layer: nn.Module) -> None:
    layer.eval()


def frozen(layer: nn.Module) -> None:
    layer.eval().requires_grad_(False)


def headed(norm: Callable[[int], nn.Module], freeze: Callable[[nn.Module], Any]) -> Net:
    """A net whose norms are frozen in a way."""
    net = Net(norm)
    for layer in norms(net):
        freeze(layer)
    return net


def tracked_instance(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)


NETS: dict[str, Callable[[], Net]] = {
    "frozen norms": lambda: headed(nn.BatchNorm2d, frozen),
    "trained weights": lambda: headed(nn.BatchNorm2d, fixed),
    "no weights": lambda: headed(lambda k: nn.BatchNorm2d(k, affine=False), fixed),
    "synchronised": lambda: headed(nn.SyncBatchNorm, lambda layer: None).eval(),
    "instance": lambda: headed(tracked_instance, fixed),
    "buffers": lambda: Net(FrozenBatchNorm2d),
    "frozen body": lambda: frozen_body(Net()),
}


def frozen_body(net: Net) -> Net:
    net.body.eval().requires_grad_(False)
    return net


def law_one_step_is_clipped_record_by_record(net: Net, **options: Any) -> None:
    trained = [p for p in net.parameters() if p.requires_grad]
    before, want = [p.detach().clone() for p in trained], [torch.zeros_like(p) for p in trained]
    for i in range(N):
        grads = torch.autograd.grad(net.losses([t[i : i + 1] for t in DATA.tensors]).sum(), trained)
        factor = min(1.0, BOUND / float(torch.cat([g.flatten() for g in grads]).norm())) / N
        for total, grad in zip(want, grads, strict=True):
            total += factor * grad
    statistics = {name: value.clone() for name, value in net.named_buffers()}
    strategy = dplit.DPStrategy(Flat(BOUND), noise=1e-8, **options)
    fit(net, strategy, DataLoader(DATA, batch_size=N), max_epochs=1)
    moved = torch.cat([(b - p.detach() - w).flatten() for b, p, w in zip(before, trained, want, strict=True)])
    assert float(moved.norm()) <= 1e-4 * BOUND
    assert all(torch.equal(value, statistics[name]) for name, value in net.named_buffers())


@pytest.mark.parametrize(
    ("name", "grads"),
    [*((name, "tape") for name in NETS), ("trained weights", "vmap"), ("instance", "vmap"), ("frozen norms", "loop")],
)
def test_one_step_is_clipped_record_by_record(name: str, grads: str) -> None:
    law_one_step_is_clipped_record_by_record(NETS[name](), grads=grads, physical_batch_size=3)


HOOKS = ("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start")


def with_hook(hook: str, act: Callable[[Net], Any]) -> Callback:
    return type("Acts", (Callback,), {hook: lambda self, trainer, module, *rest: act(module)})()


@pytest.mark.parametrize("hook", HOOKS[:3])
def test_a_body_that_is_frozen_as_the_fit_begins_trains(hook: str) -> None:
    run = fit(Net(), train=DataLoader(DATA, batch_size=1), callbacks=[with_hook(hook, frozen_body)])
    assert run.global_step == N


def law_fixed_norms_stay_fixed(hook: str) -> None:
    """Calls of `train()` on the whole model, as at the beginning of an epoch, do not unfix them."""
    net, seen = frozen_body(Net()), set()
    watched = with_hook(hook, lambda module: module.train())
    norms(net)[0].register_forward_hook(lambda layer, *_: seen.add(layer.training))
    run = fit(net, train=DataLoader(DATA, batch_size=1), callbacks=[watched], max_epochs=2)
    assert run.global_step == 2 * N
    assert seen == {False}


def test_fixed_norms_stay_fixed() -> None:
    def later(module: Net) -> None:
        if module.trainer.global_step:
            module.train()

    law_fixed_norms_stay_fixed("on_train_epoch_end")
    net = frozen_body(Net())
    assert fit(net, train=DataLoader(DATA, batch_size=1), callbacks=[with_hook(HOOKS[3], later)]).global_step == N


def test_mutant_that_does_not_hold_them_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FixedNorms, "hold", lambda self: None)
    with pytest.raises(PrivacyError, match=r"body\.0\.norms\.0 is a BatchNorm2d"):
        law_fixed_norms_stay_fixed("on_train_epoch_end")


class Unfixes(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step:
            self.train()
        return self.losses(batch)


@pytest.mark.parametrize(
    "net",
    [
        lambda: Net(),
        lambda: Net(lambda k: nn.BatchNorm2d(k, track_running_stats=False)).eval(),
        lambda: Net().requires_grad_(False),
    ],
    ids=["in train mode", "of the batch in eval mode", "frozen in train mode"],
)
def test_norms_by_the_batch_are_refused_by_name_before_a_step(net: Callable[[], Net]) -> None:
    module, strategy = net(), dplit.DPStrategy()
    module.head.requires_grad_(True)
    with pytest.raises(PrivacyError, match=r"body\.0\.norms\.0 is a BatchNorm2d.*GroupNorm"):
        fit(module, strategy, DataLoader(DATA, batch_size=2))
    assert strategy.ledger.steps == 0


def test_a_step_that_unfixes_them_releases_nothing() -> None:
    module = frozen_body(Unfixes())
    with pytest.raises(PrivacyError):
        fit(module, train=DataLoader(DATA, batch_size=N), max_epochs=3)
    assert module.trainer.global_step == 1
