"""DPStrategy inside Lightning: promises 1 to 4, 8, 12, 16 and the everyday of a user's project."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dplit
from dplit.clipping import Flat, GroupQuantile
from dplit.errors import JournalError, PrivacyError
from dplit.noise.keys import KeyedGenerators
from dplit.privacy import Gaussian, Ledger, read, steps_within
from dplit.training.private_fit import PrivateFit
from tests.lightning import BATCH, SIZE, Data, Linear, fit, loader, trainer
from tests.noise.laws import law_uncorrelated

DRAWS = SIZE // BATCH
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Watch(Callback):
    """Keeps every released gradient, and whether any existed before its release."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.early = False

    def on_before_backward(self, trainer: Any, module: LightningModule, loss: Tensor) -> None:
        self.early |= any(p.grad is not None for p in module.parameters())

    def on_before_optimizer_step(self, trainer: Any, module: LightningModule, optimizer: Any) -> None:
        grads = [p.grad for p in module.parameters()]
        self.gradients.append(torch.cat([g.flatten().clone() for g in grads if g is not None]))


class Zero(Linear):
    """No gradient but the noise; many parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 20_000)

    def losses(self, batch: Any) -> Tensor:
        return (self.net(batch["x"]) * 0).sum(1)


# -- everyday ----------------------------------------------------------------------------------------------------


def test_one_draw_is_one_step_is_one_record() -> None:
    strategy, watch = dplit.DPStrategy(physical_batch_size=3), Watch()
    run = fit(strategy=strategy, max_epochs=5, callbacks=[watch])
    assert run.global_step == strategy.ledger.steps == len(watch.gradients) == 5 * DRAWS
    assert not watch.early
    assert read("ledger.jsonl").steps == 5 * DRAWS
    (event,) = strategy.ledger.entries["train"]
    assert event.rate == BATCH / SIZE


def test_it_learns() -> None:
    torch.manual_seed(0)
    module = Linear(0.5)
    fit(module, dplit.DPStrategy(noise=0.3), train=loader(1000, 100), max_epochs=15)
    data = Data(1000)
    assert (module.net(data.x).argmax(1) == data.y).float().mean() > 0.85


@pytest.mark.parametrize(
    "order",
    [
        "import lightning, dplit",
        pytest.param("import dplit, lightning", marks=pytest.mark.slow),
        pytest.param("import lightning.pytorch, dplit", marks=pytest.mark.slow),
    ],
)
def test_by_name_in_either_import_order(order: str) -> None:
    code = f"{order}\nfrom lightning.pytorch import Trainer\nprint(type(Trainer(strategy='dp', logger=False).strategy))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert "dplit.training.strategies.single_device.DPStrategy" in ran.stdout


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_scalar_loss_with_its_reduction_trains_alike(reduction: str) -> None:
    class Scalar(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": getattr(self.losses(batch), reduction)(), "extra": 1}

    weights = []
    for module, declared in ((Linear(), None), (Scalar(), reduction)):
        torch.manual_seed(0)
        module.net = nn.Linear(6, 3)
        strategy = dplit.DPStrategy(noise=1e-9, loss_reduction=declared, physical_batch_size=5)
        fit(module, strategy, train=DataLoader(Data(), batch_size=SIZE), max_epochs=3)
        weights.append(module.net.weight.detach().clone())
    assert torch.allclose(*weights, atol=1e-6)


class Tuples(LightningModule):
    """A stranger's module: tuples, a schedule, logs, hooks, validation, its own loaders."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2, batch[1]]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        self.log("train_loss", loss.mean(), prog_bar=True, on_epoch=True)
        self.log_dict({"double": 2 * loss.mean()})
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _data(self) -> TensorDataset:
        data = Data(200)
        return TensorDataset(data.x, (data.y == 1).long())

    def train_dataloader(self) -> Any:
        return DataLoader(self._data(), batch_size=20, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self._data(), batch_size=50)


def test_a_strangers_project_changes_one_argument() -> None:
    module = Tuples()
    strategy = dplit.DPStrategy(noise=dplit.Target(epsilon=8.0, delta=1e-3), physical_batch_size=7)
    run = trainer(strategy, max_epochs=3)
    run.fit(module)
    assert run.global_step == 30
    assert torch.isfinite(run.callback_metrics["train_loss"])
    spent = strategy.spent()
    assert spent is not None
    assert 7.8 < spent.epsilon <= 8.0
    lr = run.optimizers[0].param_groups[0]["lr"]
    assert lr == pytest.approx(1e-3)
    text = Path("privacy.md").read_text()
    assert "train_loss" in text
    assert "double" in text


class Asks(Tuples):
    """Asks for the number of steps at any time."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.told: set[float] = set()
        setattr(self, hook, self._asking(getattr(self, hook)))

    def _asking(self, hook: Any) -> Any:
        def asking(*args: Any) -> Any:
            self.told.add(self.trainer.estimated_stepping_batches)
            return hook(*args)

        return asking

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


HOOKS = ("validation_step", "on_validation_start", "on_validation_epoch_end", "val_dataloader", "on_fit_start")


@pytest.mark.parametrize("hook", [*HOOKS, "configure_optimizers", "on_train_start"])
def test_the_number_of_steps_may_be_asked_for_at_any_time(hook: str) -> None:
    module, run = Asks(hook), trainer(max_epochs=2)
    run.fit(module)
    assert module.told == {run.global_step} == {20}


def test_mutant_that_leaves_the_train_loader_to_the_sanity_check_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken for a loader of validation there, and has no Poisson draws."""
    monkeypatch.setattr(dplit.DPStrategy, "setup", without_the_loader(dplit.DPStrategy.setup))
    with pytest.raises(PrivacyError, match="not the ledger's Poisson draws"):
        trainer().fit(Asks("validation_step"))


def without_the_loader(setup: Any) -> Any:
    def mutant(strategy: Any, run: Any) -> None:
        steps, run.num_sanity_val_steps = run.num_sanity_val_steps, 0
        setup(strategy, run)
        run.num_sanity_val_steps = steps

    return mutant


def test_training_logs_can_be_switched_off() -> None:
    run = trainer(dplit.DPStrategy(training_logs=False, noise=1.0))
    run.fit(Tuples())
    assert "train_loss" not in run.callback_metrics
    assert "train_loss" not in run.logged_metrics
    assert "train_loss" not in Path("privacy.md").read_text()


@pytest.mark.slow
def test_loader_workers_draw_too() -> None:
    data = DataLoader(Data(), batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    strategy = dplit.DPStrategy()
    fit(strategy=strategy, train=data, max_epochs=3)
    assert strategy.ledger.steps == 3 * DRAWS


def test_groups_come_from_the_batch() -> None:
    policy = GroupQuantile(start=0.01, noise_multiplier=0.5)
    strategy = dplit.DPStrategy(policy, 1.0, group="group", groups=["a", "b", "c"])
    fit(strategy=strategy, max_epochs=5)
    assert len(set(policy.bounds.values())) > 1
    assert strategy.spent().by_group is None


# -- 1: the ledger never under-counts ------------------------------------------------------------------------------

TRAINEE = """
import sys, torch, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, {root!r})
import dplit
from pathlib import Path
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.lightning import Linear, loader, trainer

class Applied(Callback):
    def on_before_zero_grad(self, trainer, module, optimizer): pass
    def on_after_backward(self, trainer, module):
        with open("applied", "ab", buffering=0) as file: file.write(b".")

last = Path("checkpoints/last.ckpt")
save = ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=3)
run = trainer(dplit.DPStrategy(noise=1.0), callbacks=[Applied(), save], enable_checkpointing=True, max_epochs=100_000)
run.fit(Linear(), loader(), ckpt_path=str(last) if last.exists() else None)
"""


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_forgotten() -> None:
    root = str(Path(__file__).parents[3])
    generator, kills = random.Random(0), 4
    for _ in range(kills):
        before = _size("applied")
        process = subprocess.Popen([sys.executable, "-c", TRAINEE.format(root=root)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 90
        while _size("applied") < before + 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(generator.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert _size("applied") <= read("ledger.jsonl").steps <= _size("applied") + kills


def _size(name: str) -> int:
    return Path(name).stat().st_size if Path(name).exists() else 0


# -- 2: resume keeps the ledger ------------------------------------------------------------------------------------


def saved(epochs: int, strategy: Any = None, path: str | None = None, **options: Any) -> pl.Trainer:
    run = trainer(strategy or dplit.DPStrategy(noise=1.0), max_epochs=epochs, **options)
    run.fit(Linear(), loader(), ckpt_path=path)
    run.save_checkpoint("run.ckpt")
    return run


def law_resume_keeps_the_ledger() -> None:
    straight = fit(strategy=dplit.DPStrategy(noise=1.0), max_epochs=5).strategy.ledger
    saved(2)
    resumed = saved(5, path="run.ckpt").strategy.ledger
    assert resumed.steps == straight.steps == 5 * DRAWS
    assert resumed.epsilon(1e-5) == straight.epsilon(1e-5)


def test_resume_keeps_the_ledger() -> None:
    law_resume_keeps_the_ledger()


def test_mutant_ledger_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the count of steps, or because its weights are known from the other ledger."""
    monkeypatch.setattr(dplit.DPStrategy, "load_checkpoint", pl.strategies.SingleDeviceStrategy.load_checkpoint)
    with pytest.raises((AssertionError, PrivacyError)):
        law_resume_keeps_the_ledger()


def test_steps_after_the_checkpoint_count() -> None:
    """The run went on after its checkpoint, and was lost: what it released counts."""
    saved(2)
    Path("kept.ckpt").write_bytes(Path("run.ckpt").read_bytes())
    saved(4, path="run.ckpt")
    resumed = saved(3, path="kept.ckpt")
    assert resumed.strategy.ledger.steps == (4 + 1) * DRAWS


def test_policy_and_noise_come_back() -> None:
    def make() -> dplit.DPStrategy:
        policy = GroupQuantile(noise_multiplier=0.9)
        return dplit.DPStrategy(policy, dplit.Target(60.0, 1e-3), group="group", groups=["a", "b", "c"])

    first, second = make(), make()
    saved(8, first, callbacks=[StopAfter(3)])
    before = first.policy.bounds
    seen = []

    class Look(Callback):
        def on_train_epoch_start(self, trainer: Any, module: LightningModule) -> None:
            seen.append(second.policy.bounds)

    trainer(second, max_epochs=4, callbacks=[Look()]).fit(Linear(), loader(), ckpt_path="run.ckpt")
    assert seen == [before]
    assert set(before.values()) != {1.0}
    assert second.noise_multiplier == first.noise_multiplier


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "missing": (lambda: Path("run.ckpt").unlink(), "does not exist"),
    "empty": (lambda: Path("run.ckpt").write_bytes(b""), "damaged"),
    "truncated": (lambda: Path("run.ckpt").write_bytes(Path("run.ckpt").read_bytes()[:-400]), "damaged"),
    "pickle": (lambda: torch.save({"state_dict": KeyedGenerators(1)}, "run.ckpt"), "more than tensors"),
    "not_a_state": (lambda: torch.save([1], "run.ckpt"), "holds a list"),
    "no_journal": (lambda: Path("ledger.jsonl").unlink(), "ledger.jsonl"),
    "empty_journal": (lambda: Path("ledger.jsonl").write_bytes(b""), "ledger.jsonl"),
    "bad_journal": (
        lambda: Path("ledger.jsonl").write_bytes(
            Path("ledger.jsonl").read_bytes().replace(b'"times":1', b'"times":0', 1)
        ),
        "ledger.jsonl",
    ),
    "behind": (
        lambda: Path("ledger.jsonl").write_bytes(b"".join(Path("ledger.jsonl").read_bytes().splitlines(True)[:3])),
        "ledger.jsonl",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_evidence_is_one_clear_line(name: str) -> None:
    saved(2)
    break_it, says = BROKEN[name]
    break_it()
    with pytest.raises(JournalError) as caught:
        saved(4, path="run.ckpt")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_ledger_is_refused() -> None:
    run = trainer("auto", max_epochs=1)

    class Plain(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.losses(batch).mean()

    run.fit(Plain(), loader())
    run.save_checkpoint("plain.ckpt")
    with pytest.raises(JournalError, match="no privacy ledger"):
        saved(2, path="plain.ckpt")


def test_two_runs_in_one_folder_keep_two_journals() -> None:
    saved(1)
    saved(2)
    assert read("ledger.jsonl").steps == DRAWS
    assert read("ledger-2.jsonl").steps == 2 * DRAWS


# -- 3 and 4: noise is never used twice, and a user's seed never touches it ------------------------------------------


def law_noise_is_fresh() -> None:
    """A zero-gradient model, the same user seed, resumed three times."""
    seen: list[Tensor] = []
    for epochs in (1, 2, 3, 4):
        pl.seed_everything(0, verbose=False)
        watch = Watch()
        run = trainer(dplit.DPStrategy(noise=1.0), max_epochs=epochs, callbacks=[watch])
        run.fit(Zero(), loader(batch=32), ckpt_path="zero.ckpt" if epochs > 1 else None)
        run.save_checkpoint("zero.ckpt")
        seen += watch.gradients
    assert len(seen) == 4 * 2
    for i, a in enumerate(seen):
        for b in seen[:i]:
            law_uncorrelated(a, b)


def test_noise_is_never_used_twice() -> None:
    law_noise_is_fresh()


def test_mutant_default_generator_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyedGenerators, "generator", lambda self, *key, **named: torch.default_generator)
    monkeypatch.setattr(PrivateFit, "_probe", lambda self, given: None)
    with pytest.raises(AssertionError):
        law_noise_is_fresh()


def law_users_seed_is_not_ours() -> None:
    runs = []
    for _ in range(2):
        pl.seed_everything(0, verbose=False)
        watch = Watch()
        fit(Zero(), dplit.DPStrategy(), train=DataLoader(Data(), batch_size=SIZE), callbacks=[watch])
        runs.append(watch.gradients[0])
    law_uncorrelated(*runs)


def test_a_users_seed_never_touches_the_noise() -> None:
    law_users_seed_is_not_ours()


def test_mutant_global_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyedGenerators, "generator", lambda self, *key, **named: torch.default_generator)
    with pytest.raises(AssertionError):
        law_users_seed_is_not_ours()


def test_a_fixed_noise_seed_marks_ledger_and_statement() -> None:
    strategy = dplit.DPStrategy(noise_seed=5)
    fit(strategy=strategy)
    assert any("seed" in note for note in strategy.ledger.notes)
    assert "seed" in Path("privacy.md").read_text()
    assert any("seed" in note for note in read("ledger.jsonl").notes)


def test_a_fixed_noise_seed_repeats_nothing_on_resume() -> None:
    seen: list[Tensor] = []
    for epochs in (1, 2):
        watch = Watch()
        run = trainer(dplit.DPStrategy(noise=1.0, noise_seed=5), max_epochs=epochs, callbacks=[watch])
        run.fit(Zero(), loader(batch=32), ckpt_path="zero.ckpt" if epochs > 1 else None)
        run.save_checkpoint("zero.ckpt")
        seen += watch.gradients
    for i, a in enumerate(seen):
        for b in seen[:i]:
            law_uncorrelated(a, b)


# -- 8: empty draws --------------------------------------------------------------------------------------------------


def test_a_third_of_the_draws_empty() -> None:
    strategy, watch = dplit.DPStrategy(), Watch()
    run = fit(strategy=strategy, train=loader(40, 1), callbacks=[watch], max_epochs=2)
    assert run.global_step == strategy.ledger.steps == len(watch.gradients) == 80
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in watch.gradients)
    assert all(v.isfinite() for v in run.callback_metrics.values())


# -- 16: the target is never passed ------------------------------------------------------------------------------------


class StopAfter(Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Any, module: LightningModule) -> None:
        trainer.should_stop |= trainer.current_epoch + 1 >= self.epochs


def law_stops_in_time() -> None:
    """A run planned for 6 epochs and stopped after 2 is resumed for 50: it ends where the target does."""
    target = dplit.Target(epsilon=2.0, delta=1e-3)
    saved(6, dplit.DPStrategy(noise=target), callbacks=[StopAfter(2)])
    run = saved(50, dplit.DPStrategy(noise=target), path="run.ckpt")
    ledger = run.strategy.ledger
    assert 2 * DRAWS < ledger.steps == run.global_step
    assert ledger.epsilon(target.delta).upper <= target.epsilon
    (event,) = ledger.entries["train"]
    ledger = read("ledger.jsonl")
    ledger.record(event)
    assert ledger.epsilon(target.delta).upper > target.epsilon


def test_training_stops_before_the_target_would_be_passed() -> None:
    law_stops_in_time()


def test_mutant_off_by_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.setup.steps_within", lambda *a, **k: steps_within(*a, **k) + 1)
    with pytest.raises(AssertionError):
        law_stops_in_time()


def test_a_spent_target_takes_no_step() -> None:
    target = dplit.Target(epsilon=2.0, delta=1e-3)
    saved(3, dplit.DPStrategy(noise=target))
    steps = read("ledger.jsonl").steps
    with pytest.raises(dplit.errors.BudgetExhausted):
        saved(60, dplit.DPStrategy(noise=target), path="run.ckpt")
    assert read("ledger.jsonl").steps == steps


# -- statistics of other records -----------------------------------------------------------------------------------------


def test_a_statistic_is_charged_to_its_own_split() -> None:
    strategy = dplit.DPStrategy()
    fit(strategy=strategy)
    before = strategy.ledger.epsilon(1e-5)
    noisy = strategy.release_statistic(torch.zeros(100_000), sensitivity=1.0, noise_multiplier=50.0)
    assert noisy.std() == pytest.approx(50.0, rel=0.02)
    assert strategy.ledger.entries["validation"] == {Gaussian(50.0): 1}
    assert strategy.ledger.epsilon(1e-5) == before
    assert read("ledger.jsonl").entries["validation"] == {Gaussian(50.0): 1}


def test_a_ledger_of_ones_own_is_at_hand() -> None:
    strategy = dplit.DPStrategy(policy=Flat(2.0))
    assert isinstance(strategy.ledger, Ledger)
    assert strategy.spent() is None
    assert isinstance(ModelCheckpoint(), Callback)
