"""`physical_batch_size="auto"`: the size fits, disturbs nothing and changes no result; memory is that of the physical batch."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import SumMetric

import dplit
from dplit.clipping import Flat, GroupQuantile, PerLayer
from dplit.data.units import Copies
from dplit.sampling.loader import poisson_loader
from dplit.training.memory import batch_size_finder, device_memory
from dplit.training.memory.batch_size_finder import Cost, largest, quickest
from dplit.training.memory.device_memory import GIB, Allocations
from tests.lightning import BATCH, SIZE, Data, Linear, fit, loader, trainer
from tests.training.strategies.test_policies import GROUPS
from tests.training.test_units import Persons, swapped


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def auto(*arguments: Any, **options: Any) -> dplit.DPStrategy:
    return dplit.DPStrategy(*arguments, physical_batch_size="auto", **options)


# -- the search ----------------------------------------------------------------------------------------------------


def law_the_largest_that_fits(fixed: int, each: int, room: int, most: int) -> None:
    """On a straight line nothing beyond the room is tried, bar the first size, and nothing smaller than fits is taken."""
    tried: list[int] = []

    def cost(size: int) -> Cost:
        tried.append(size)
        return Cost(fixed + each * size, 1.0)

    found = largest(cost, most, room, fixed)
    fitting = [2**k for k in range(30) if 2**k <= most and fixed + each * 2**k <= room]
    assert found == (max(fitting) if fitting else None)
    assert all(fixed + each * size <= room for size in tried if size > 1)


CASES = [
    (0, 1, 100, 1000),
    (50, 7, 100, 1000),
    (50, 50, 100, 1000),
    (5, 1, 10**6, 64),
    (5, 1, 10**6, 63),
    (9, 2, 10, 8),
]


@pytest.mark.parametrize("case", CASES)
def test_the_largest_that_fits(case: tuple[int, int, int, int]) -> None:
    law_the_largest_that_fits(*case)


def test_mutant_that_looks_no_step_ahead_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size_finder, "_next", lambda tried, fixed: 0)
    with pytest.raises(AssertionError):
        law_the_largest_that_fits(*CASES[0])


def test_where_memory_runs_out_the_size_before_is_taken() -> None:
    assert largest(lambda size: None if size > 8 else Cost(size, 0.0), 1000, 10**9) == 8
    assert largest(lambda size: None, 1000, 10**9) is None


def test_on_the_cpu_no_larger_than_quick() -> None:
    """Seconds per example: they fall to 1 at 8, with a slow trial at 4, and no more beyond."""
    each, tried = {1: 4.0, 2: 2.0, 4: 3.0, 8: 1.0}, []

    def cost(size: int) -> Cost:
        tried.append(size)
        return Cost(1, size * each.get(size, 0.95))

    assert largest(cost, 2**12, 10**9, 0, quickest) == 8
    assert tried == [1, 2, 4, 8, 16, 32]


# -- in a fit ------------------------------------------------------------------------------------------------------


def weights(strategy: Any, **options: Any) -> Tensor:
    torch.manual_seed(0)
    module = Linear(1.0)
    fit(module, strategy, DataLoader(Data(), batch_size=SIZE), max_epochs=2, **options)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("grads", ["tape", "vmap", "loop"])
@pytest.mark.parametrize("policy", [Flat(0.2), PerLayer(0.2)])
def test_the_result_is_that_of_any_other_size(grads: str, policy: Any) -> None:
    given = dplit.DPStrategy(policy, 0.5, 7, grads=grads, noise_seed=1)
    found = auto(policy, 0.5, grads=grads, noise_seed=1)
    torch.testing.assert_close(weights(found), weights(given), rtol=0, atol=1e-6)
    assert found.ledger.entries == given.ledger.entries
    assert math.log2(found.physical_batch_size).is_integer()


class Sizes(Linear):
    """Keeps, outside of itself, how many examples it was given at a time."""

    def __init__(self) -> None:
        super().__init__()
        SEEN.clear()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        SEEN.append(len(batch["x"]))
        return self.losses(batch)


SEEN: list[int] = []


@pytest.mark.parametrize("workers", [0, 1])
def test_draws_are_cut_to_it(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that wait in a worker were cut at the size before, which is as safe as the probe."""
    monkeypatch.setattr(batch_size_finder, "largest", lambda *arguments: 32)
    strategy, module = auto(), Sizes()
    train = DataLoader(Data(1000), batch_size=200, num_workers=workers, persistent_workers=workers > 0)
    fit(module, strategy, train, max_epochs=4)
    assert strategy.physical_batch_size == 32
    assert set(SEEN[-3:]) >= {32}
    assert max(SEEN) == 32


def test_it_is_found_anew_for_every_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([32, 2])
    monkeypatch.setattr(batch_size_finder, "largest", lambda *arguments: next(sizes))
    strategy, module = auto(), Sizes()
    run = trainer(strategy)
    for epochs, size in ((1, 32), (2, 2)):
        run.fit_loop.max_epochs = epochs
        run.fit(module, DataLoader(Data(500), batch_size=200))
        assert strategy.physical_batch_size == size
        assert SEEN[-2] == size


def test_one_line_says_it_and_the_statement_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    strategy = auto(memory_limit=3)
    fit(strategy=strategy)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "physical" in line]
    assert line.startswith(f"dplit: physical batch size {strategy.physical_batch_size} examples, found by trial on cpu")
    assert line.endswith("GiB to take")
    assert any(
        "physical batch size" in it for it in json.loads(Path("privacy.json").read_text())["released_without_charge"]
    )
    fit(strategy=dplit.DPStrategy())
    assert "physical" not in capsys.readouterr().err


def test_nothing_is_charged_where_one_example_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = auto(memory_limit=1e-6)
    with pytest.raises(dplit.errors.ConfigurationError, match="does not hold the model and one example"):
        fit(strategy=strategy)
    assert strategy.ledger.steps == 0


@pytest.mark.parametrize(
    "options", [{"unit": "user"}, {"policy": GroupQuantile(), "groups": GROUPS}, {"policy": Flat()}]
)
def test_with_persons_copies_and_groups(options: dict[str, Any]) -> None:
    strategy = auto(**options)
    fit(strategy=strategy, train=DataLoader(Copies(Persons(), swapped), batch_size=16))
    assert strategy.ledger.steps == (2 if strategy.unit else 4)


def test_resumed_with_another_size() -> None:
    fit(strategy=auto(noise_seed=1)).save_checkpoint("half.ckpt", weights_only=False)
    second = dplit.DPStrategy(physical_batch_size=3, noise_seed=1)
    trainer(second, max_epochs=2).fit(Linear(), loader(), ckpt_path="half.ckpt")
    assert second.ledger.steps == 2 * SIZE // BATCH


# -- what a trial leaves behind: nothing ---------------------------------------------------------------------------


class Restless(Linear):
    """Draws numbers from everywhere, counts its calls in what may be written, keeps a metric, logs, and drops out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.seen, self.turns = SumMetric(), [0]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls += 1
        self.frozen += 1
        self.turns.append(1)
        self.seen.update(len(batch["x"]))
        random.random(), np.random.rand()
        losses = self.losses(batch)
        self.log("train/loss", losses.mean(), on_epoch=True, batch_size=len(losses))
        return losses


def state(run: Any) -> dict[str, Any]:
    module, strategy = run.lightning_module, run.strategy
    return {
        **{name: t.detach().clone() for name, t in module.state_dict().items()},
        "metric": (float(module.seen.sum_value), module.seen._update_count),
        "turns": len(module.turns),
        "grads": [p.grad for p in module.parameters()],
        "torch": torch.get_rng_state(),
        "python": random.getstate()[1],
        "numpy": np.random.get_state()[1].tolist(),
        "policy": strategy.policy.state_dict(),
        "steps": strategy.ledger.steps,
        "mode": [part.training for part in module.modules()],
        "sampler": run.train_dataloader.batch_sampler.seed,
        "optimizer": run.optimizers[0].state_dict(),
    }


def law_a_trial_leaves_everything_as_it_was() -> None:
    seen: list[tuple[Any, Any]] = []
    right = batch_size_finder.find

    class Look(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            def looked(*arguments: Any) -> int:
                before = state(trainer)
                size = right(*arguments)
                seen.append((before, state(trainer)))
                return size

            batch_size_finder.find = looked

    try:
        scratch = ["calls", "frozen", "turns"]
        fit(Restless(), auto(GroupQuantile(), groups=GROUPS, scratch=scratch), callbacks=[Look()])
    finally:
        batch_size_finder.find = right
    ((before, after),) = seen
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same, name


def test_a_trial_leaves_everything_as_it_was() -> None:
    law_a_trial_leaves_everything_as_it_was()


def test_mutant_without_putting_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def careless(module: nn.Module, trials: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(batch_size_finder, "undisturbed", careless)
    with pytest.raises(AssertionError):
        law_a_trial_leaves_everything_as_it_was()


def test_what_a_trial_logs_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    right = batch_size_finder._tried
    monkeypatch.setattr(batch_size_finder, "_tried", lambda *arguments: tried.append(right(*arguments)))

    class Marked(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = self.losses(batch)
            self.log("trials", float(len(tried)), on_epoch=True, reduce_fx="min", batch_size=len(losses))
            return losses

    run = fit(Marked(), auto())
    assert run.callback_metrics["trials"] == len(tried) > 0


# -- trials are of the longest -------------------------------------------------------------------------------------


def ragged(lengths: list[int]) -> DataLoader:
    def collate(rows: list[Tensor]) -> dict[str, Tensor]:
        return {"x": nn.utils.rnn.pad_sequence(rows, batch_first=True)}

    return poisson_loader(DataLoader([torch.ones(n) for n in lengths], batch_size=10, collate_fn=collate), 4)


def test_the_longest_come_first() -> None:
    lengths = [3 + 7 * i % 101 for i in range(100)]
    assert [len(row) for row in batch_size_finder._longest(ragged(lengths))] == sorted(lengths, reverse=True)


def test_of_many_records_some_are_looked_at() -> None:
    found = [len(row) for row in batch_size_finder._longest(ragged([1 + i % 50 for i in range(5000)]))]
    assert len(found) == batch_size_finder.SAMPLED
    assert found == sorted(found, reverse=True)


def test_no_size_is_larger_than_nearly_all_draws() -> None:
    enough = batch_size_finder._enough(poisson_loader(DataLoader(Data(), batch_size=16), 4))
    assert enough == 32
    assert batch_size_finder._enough(poisson_loader(DataLoader(Data(), batch_size=1), 4)) == 4


# -- memory --------------------------------------------------------------------------------------------------------


class Wide(Linear):
    """An example's activations are far larger than the model."""

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        wide = self.net(batch["x"]).repeat(1, 20_000).sigmoid()
        return F.cross_entropy(wide[:, :3] + wide.mean(1, keepdim=True), batch["y"], reduction="none")


def law_a_draw_stays_within_the_limit(limit: int) -> None:
    """The tensors of a whole draw, of 256 examples, and the largest size that does it."""
    strategy, right = auto(memory_limit=limit / GIB), dplit.DPStrategy.training_step
    peaks: list[int] = []

    def watched(self: Any, *arguments: Any) -> Tensor:
        allocations = Allocations()
        with allocations:
            loss = right(self, *arguments)
        peaks.append(allocations.most)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dplit.DPStrategy, "training_step", watched)
        patch.setattr(device_memory, "used", lambda device: 0)
        patch.setattr(batch_size_finder, "quickest", max)
        fit(Wide(), strategy, DataLoader(Data(1024), batch_size=256), max_epochs=1)
    later = max(peaks[1:])
    assert later <= limit < 3 * later


@pytest.mark.parametrize("limit", [20_000_000, 40_000_000])
def test_a_draw_stays_within_the_limit(limit: int) -> None:
    law_a_draw_stays_within_the_limit(limit)


@pytest.mark.slow
def test_mutant_without_the_limit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size_finder, "_room", lambda device, memory_limit: 2**40)
    with pytest.raises(AssertionError):
        law_a_draw_stays_within_the_limit(20_000_000)


class Decoder(Linear):
    """A causal language model with random weights, two layers and 2000 words."""

    def __init__(self, words: int = 2000, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(words, width), nn.Linear(width, words, bias=False)
        self.queries = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.net = nn.ModuleList([self.words, self.head, self.queries, self.norms])

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.words(batch["ids"][:, :-1])
        for queries, norm in zip(self.queries, self.norms, strict=True):
            parts = [part.unflatten(-1, (4, -1)).transpose(1, 2) for part in queries(norm(x)).chunk(3, -1)]
            x = x + F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(-2)
        loss = F.cross_entropy(self.head(x).transpose(1, 2), batch["ids"][:, 1:], reduction="none")
        return loss.mean(1)


class Texts(Data):
    """Texts of 12 tokens."""

    def __init__(self, size: int) -> None:
        self.x = torch.randint(2000, (size, 12), generator=torch.Generator().manual_seed(0))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"ids": self.x[i]}


def peak(logical: int, most: int) -> int:
    """Bytes of the tensors of one step, from collating the draw to its release, with the model's and the data's apart."""
    module, train = Decoder(), DataLoader(Texts(logical), batch_size=logical)
    allocations = Allocations()
    with allocations:
        fit(module, dplit.DPStrategy(physical_batch_size=most), train, max_steps=1)
    return allocations.most


def law_memory_does_not_grow_with_the_logical_batch(large: int, most: int) -> None:
    assert peak(large, most) <= 1.05 * peak(64, min(most, 16))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_logical_batch() -> None:
    law_memory_does_not_grow_with_the_logical_batch(2048, 16)


def test_memory_does_not_grow_with_a_smaller_one() -> None:
    law_memory_does_not_grow_with_the_logical_batch(256, 16)


@pytest.mark.slow
def test_mutant_the_whole_draw_at_once_is_caught() -> None:
    with pytest.raises(AssertionError):
        law_memory_does_not_grow_with_the_logical_batch(256, 256)
