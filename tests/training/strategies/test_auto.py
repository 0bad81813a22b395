"""`DPStrategy()` trains what the tape alone refuses: exactly, said once, with no coupling let through, also in mid-fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

import dplit
from dplit.clipping import Flat
from dplit.errors import CoupledExamples, PrivacyError
from dplit.grads import auto
from tests.lightning import SIZE, Data, Linear, fit, trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop", "ignore:.*is_gradient_checkpointing", "ignore:.*fan_in_fan_out"
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


Loss = Callable[[nn.Module, Any], Tensor]
Case = tuple[nn.Module, Loss, Dataset]
STEP, BOUND = 100.0, 0.1
"""A learning rate so large that float32 rounding of the parameters is small beside a step."""


class Lit(LightningModule):
    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=STEP)


def gap(net: nn.Module, loss: Loss, data: Dataset, **options: Any) -> float:
    """The largest distance of one private step from clipping record by record in float64, over its size."""
    wide = copy.deepcopy(net).double()
    params = [p for p in wide.parameters() if p.requires_grad]
    want = [torch.zeros_like(p) for p in params]
    for one in data:
        batch = [t.double() if t.is_floating_point() else t for t in default_collate([one])]
        grads = torch.autograd.grad(loss(wide, batch).sum(), params, allow_unused=True)
        norm = sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5
        for w, g in zip(want, grads, strict=True):
            w += 0 if g is None else g * min(1.0, BOUND / max(norm, 1e-30)) / len(data)
    mine = [p for p in net.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in mine]
    strategy = dplit.DPStrategy(Flat(BOUND), noise=1e-7, noise_seed=1, **options)
    trainer(strategy).fit(Lit(net, loss), DataLoader(data, batch_size=len(data)))
    found = [(b - p.detach()).double() / STEP for b, p in zip(before, mine, strict=True)]
    return max(float((f - w).abs().max()) for f, w in zip(found, want, strict=True)) / max(
        float(w.abs().max()) for w in want
    )


def law_one_step(make: Callable[[], Case], **options: Any) -> None:
    torch.manual_seed(0)
    assert gap(*make(), **options) < 1e-4


def classes(net: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1], reduction="none")


def vectors(n: int = 6) -> Dataset:
    return TensorDataset(torch.randn(n, 8), torch.arange(n) % 3)


def images(n: int = 6) -> Dataset:
    return TensorDataset(torch.randn(n, 4, 6), torch.arange(n) % 3)


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, left = x.new_zeros(len(x), 3), x[:, 0] > 0
        out[left] = self.a(x[left])
        out[~left] = self.b(x[~left])
        return out


class Experts(nn.Module):
    """Each token goes to one of more experts than there are tokens in a record."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(8, 5), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 8)
        score, chosen = self.gate(tokens).softmax(-1).max(-1)
        out = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == e)
            out.index_add_(0, rows, expert(tokens[rows]) * score[rows, None])
        return self.head(out.view(x.shape).mean(1))


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.centres = nn.Linear(8, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.net(x)[:, None], self.centres.expand(len(x), -1, -1))[:, 0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.mT)[0][:, -1])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.net(v) if v.sum() > 0 else 2 * self.net(v) for v in x])


def penalised(net: nn.Module, batch: Any) -> Tensor:
    x = batch[0].clone().requires_grad_()
    out = net(x)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return F.cross_entropy(out, batch[1], reduction="none") + (slope.flatten(1).norm(dim=1) - 1) ** 2


def penalty(layer: Callable[[], nn.Module]) -> Callable[[], Case]:
    return lambda: (nn.Sequential(layer(), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)), penalised, images())


CASES: dict[str, Callable[[], Case]] = {
    "empty_route": lambda: (Routed(), classes, vectors()),
    "empty_experts": lambda: (Experts(), classes, TensorDataset(torch.randn(6, 3, 8), torch.arange(6) % 3)),
    "second_pass": lambda: (Distances(), classes, vectors()),
    "recurrent": lambda: (Recurrent(), classes, images()),
    "branching": lambda: (Branching(), classes, vectors()),
    "penalty_group_norm": penalty(lambda: nn.GroupNorm(2, 4)),
    "penalty_layer_norm": penalty(lambda: nn.LayerNorm(6)),
    "penalty_conv": penalty(lambda: nn.Conv1d(4, 4, 3, padding=1)),
    "weight_norm": lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), classes, vectors()),
}


@pytest.mark.parametrize("case", CASES)
def test_one_step_is_exact(case: str) -> None:
    law_one_step(CASES[case])


@pytest.mark.parametrize("most", [1, 4, "auto"])
@pytest.mark.parametrize("case", ["second_pass", "branching"])
def test_one_step_is_exact_at_every_physical_size(case: str, most: Any) -> None:
    law_one_step(CASES[case], physical_batch_size=most)


def language(net: nn.Module, batch: Any) -> Tensor:
    (ids,) = batch
    logits = net(input_ids=ids).logits[:, -ids.shape[1] :]
    return F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none").mean(1)


def adapted(**config: Any) -> Callable[[], Case]:
    """A small GPT-2 with the adapter that this peft config stands for."""

    def make() -> Case:
        import peft
        from transformers import GPT2Config, GPT2LMHeadModel

        size = {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
        still = dict.fromkeys(("resid_pdrop", "attn_pdrop", "embd_pdrop"), 0.0)
        base = GPT2LMHeadModel(GPT2Config(**size, **still, bos_token_id=1, eos_token_id=2))
        kind = getattr(peft, config.pop("kind"))
        net = peft.get_peft_model(base, kind(task_type="CAUSAL_LM", **config))
        return moved(net), language, TensorDataset(torch.randint(3, 40, (5, 6)))

    return make


def moved(net: nn.Module) -> nn.Module:
    """Leave the initial state, in which half of an adapter is zero."""
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p) * p.requires_grad
    return net


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


def lora_of_attention() -> Case:
    from peft import LoraConfig, get_peft_model

    return moved(get_peft_model(Attention(), LoraConfig(r=2, target_modules=["attend"]))), classes, images()


ADAPTERS: dict[str, Callable[[], Case]] = {
    "dora_conv1d": adapted(kind="LoraConfig", r=2, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True),
    "dora_embedding": adapted(kind="LoraConfig", r=2, target_modules=["wte"], use_dora=True),
    "prefix": adapted(kind="PrefixTuningConfig", num_virtual_tokens=3),
    "prompt": adapted(kind="PromptTuningConfig", num_virtual_tokens=3),
    "p_tuning": adapted(kind="PromptEncoderConfig", num_virtual_tokens=3, encoder_hidden_size=8),
    "ia3": adapted(kind="IA3Config", target_modules=["c_attn"], feedforward_modules=[], fan_in_fan_out=True),
    "lora_of_attention": lora_of_attention,
}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_are_exact_by_the_tape(adapter: str) -> None:
    law_one_step(ADAPTERS[adapter], grads="tape")


def test_mutant_second_pass_that_is_left_out_of_the_norm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = auto.PerExample

    class Forgetful(honest):
        def norms(self) -> Tensor:
            return torch.stack([sq for name, sq in self.sq_norms().items() if "centres" not in name]).sum(0).sqrt()

    monkeypatch.setattr(auto, "PerExample", Forgetful)
    with pytest.raises(AssertionError):
        law_one_step(CASES["second_pass"])


# -- the same fit ----------------------------------------------------------------------------------------------------


class Net(Linear):
    """Logs a mean and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.centres = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)), nn.Parameter(torch.randn(3, 4))

    def logits(self, x: Tensor) -> Tensor:
        return self.net(x)[:, :3] * self.centres.sum()

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self.logits(batch["x"]), batch["y"], reduction="none")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.losses(batch)
        self.log("mean", losses.mean(), on_step=False, on_epoch=True)
        self.log("above", (losses > 1).float().sum(), on_step=False, on_epoch=True, reduce_fx="sum")
        return losses

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Apart(Net):
    """An operation without a rule, from a step on."""

    since = 0

    def logits(self, x: Tensor) -> Tensor:
        if self.trainer.global_step < self.since:
            return super().logits(x)
        return -torch.cdist(self.net(x)[:, None], self.centres.expand(len(x), -1, -1))[:, 0]


class Alone(Net):
    """Another road for some examples, from a step on."""

    since = 0

    def logits(self, x: Tensor) -> Tensor:
        if self.trainer.global_step < self.since:
            return super().logits(x)
        return torch.stack([super(Alone, self).logits(v[None])[0] * (1 if v.sum() > 0 else 2) for v in x])


def trained(module: Net, grads: str, **options: Any) -> tuple[Tensor, Any]:
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    strategy = dplit.DPStrategy(Flat(0.3), 0.5, physical_batch_size=9, noise_seed=1, grads=grads, **options)
    run = fit(module, strategy, DataLoader(Data(), batch_size=3 if options else SIZE), max_epochs=3)
    return torch.cat([p.detach().flatten() for p in module.parameters()]), run


@pytest.mark.slow
@pytest.mark.parametrize("since", [0, 1, 2])
@pytest.mark.parametrize("kind", [Apart, Alone])
def test_a_fit_is_that_of_the_loop_also_where_the_backend_changes_in_mid_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Net], since: int
) -> None:
    monkeypatch.setattr(kind, "since", since)
    mine, run = trained(kind(), "auto")
    assert capsys.readouterr().err.count('grads="auto"') == 1
    loop, its = trained(kind(), "loop")
    assert float((mine - loop).abs().max()) < 1e-5
    for name in ("mean", "above"):
        assert float(run.callback_metrics[name]) == pytest.approx(float(its.callback_metrics[name]), abs=1e-5)
    assert run.strategy.physical_batch_size == (1 if kind is Alone else 9)


def test_a_fit_is_that_of_the_tape_bit_for_bit() -> None:
    (mine, run), (tape, its) = trained(Net(), "auto"), trained(Net(), "tape")
    assert torch.equal(mine, tape)
    assert run.callback_metrics == its.callback_metrics


@pytest.mark.parametrize("kind", [Net, Apart, Alone])
def test_persons_are_clipped_as_one(kind: type[Net]) -> None:
    mine, _ = trained(kind(), "auto", unit="group")
    loop, _ = trained(kind(), "loop", unit="group")
    assert float((mine - loop).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", [Apart, Alone])
def test_mixed_precision(kind: type[Net]) -> None:
    fit(kind(), dplit.DPStrategy(), precision="bf16-mixed")


def test_workers_cut_draws_as_the_backend_takes_them() -> None:
    torch.manual_seed(0)
    run = fit(Alone(), dplit.DPStrategy(physical_batch_size=9), DataLoader(Data(), batch_size=16, num_workers=1))
    assert run.strategy.physical_batch_size == 1


# -- couplings -------------------------------------------------------------------------------------------------------


def coupled(losses: Tensor) -> Tensor:
    return losses * losses.mean()


@pytest.mark.parametrize("kind", [Net, Apart, Alone])
@pytest.mark.parametrize("reduction", [None, "sum"])
def test_a_coupling_is_found_whatever_computes_the_gradients(
    monkeypatch: pytest.MonkeyPatch, kind: type[Net], reduction: Any
) -> None:
    def step(self: Net, batch: Any, batch_idx: int) -> Tensor:
        losses = coupled(self.losses(batch))
        return losses if reduction is None else losses.sum()

    monkeypatch.setattr(kind, "training_step", step)
    with pytest.raises(CoupledExamples):
        fit(kind(), dplit.DPStrategy(loss_reduction=reduction))


def test_mutant_that_never_sees_examples_together_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto.Auto, "in_company", auto.Auto.gradients)
    with pytest.raises(pytest.fail.Exception):
        test_a_coupling_is_found_whatever_computes_the_gradients(monkeypatch, Alone, None)


@pytest.mark.parametrize("kind", [Net, Apart, Alone])
def test_batch_norm_is_no_matter_of_the_backend(monkeypatch: pytest.MonkeyPatch, kind: type[Net]) -> None:
    honest = kind.logits
    monkeypatch.setattr(
        kind,
        "logits",
        lambda self, x: honest(self, F.batch_norm(x, None, None, self.centres.new_ones(6), training=True)),
    )
    with pytest.raises(PrivacyError):
        fit(kind(), dplit.DPStrategy())
