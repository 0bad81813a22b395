"""Before the first release real records are looked at; what mixes them is refused, what is looked at leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torch.utils.data import DataLoader

from dplit.clipping import Flat
from dplit.errors import CoupledExamples
from dplit.grads.batch_layout import Role
from dplit.sampling.loader import poisson_loader
from dplit.training import probing
from dplit.training.checks.loader import TrainLoader
from dplit.training.physical_batches import PhysicalBatches, StepArguments
from dplit.training.probing import check_coupling, find_physical_batch_size
from tests.lightning import Data, Linear

GIVEN = StepArguments()


class Coupled(Linear):
    """Each loss is compared with the mean of its batch."""

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        losses = super().losses(batch)
        return losses * losses.mean()


def looked_at(module: Linear, backend: Any = "tape") -> tuple[PhysicalBatches, TrainLoader]:
    loader = poisson_loader(DataLoader(Data(), batch_size=16), 1 if backend == "loop" else 8)
    train = TrainLoader(loader, loader.batch_sampler, loader.collate_fn)
    return PhysicalBatches(module, Precision(), torch.device("cpu"), grads=backend), train


def test_mixed_examples_are_refused() -> None:
    with pytest.raises(CoupledExamples, match="net"):
        check_coupling(*looked_at(Coupled()), GIVEN)


@pytest.mark.parametrize("backend", ["tape", "vmap", "loop"])
def test_independent_examples_pass_and_nothing_is_left(backend: str) -> None:
    module = Linear()
    before, random = [p.clone() for p in module.parameters()], torch.get_rng_state()
    check_coupling(*looked_at(module, backend), GIVEN)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_mutant_that_looks_at_one_record_at_a_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PROBE_EXAMPLES", dict.fromkeys(("tape", "vmap", "loop"), 1))
    with pytest.raises(pytest.fail.Exception):
        test_mixed_examples_are_refused()


def test_other_records_are_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    honest = probing.fetch_samples
    monkeypatch.setattr(
        probing, "fetch_samples", lambda data, chosen: seen.append(tuple(chosen)) or honest(data, chosen)
    )
    check_coupling(*looked_at(Linear()), GIVEN)
    assert len(seen) == probing.PROBES
    assert len(set(seen)) > 1


def test_the_size_that_is_found_fits_and_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    batches, train = looked_at(Linear())
    size = find_physical_batch_size(batches, train, Flat(), GIVEN, None)
    assert size & (size - 1) == 0
    assert f"physical batch size {size} examples, found by trial on cpu" in capsys.readouterr().err


class Priors(Linear):
    """Class priors travel in the batch, as many as there are classes."""

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return super().losses(batch) + batch["priors"].sum()


def test_vmap_learns_which_parts_belong_to_examples() -> None:
    batches, train = looked_at(Linear(), "vmap")
    users = train.collate.collate
    train.collate.collate = lambda rows: {**users(rows), "priors": torch.ones(8)}
    random = torch.get_rng_state()
    layout = probing.with_layout(batches, train).layout
    assert layout is not None
    assert layout.roles["batch['priors']"] is Role.SHARED
    assert layout.roles["batch['x']"] is Role.ROWS
    assert torch.equal(torch.get_rng_state(), random)
    check_coupling(probing.with_layout(looked_at(Priors(), "vmap")[0], train), train, GIVEN)


@pytest.mark.parametrize("backend", ["tape", "loop"])
def test_other_backends_need_no_layout(backend: str) -> None:
    batches, train = looked_at(Linear(), backend)
    assert probing.with_layout(batches, train) is batches
