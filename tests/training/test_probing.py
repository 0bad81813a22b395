"""Before the first release real records are looked at; what mixes them is refused, what is looked at leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dplit.clipping import Flat
from dplit.errors import CoupledExamples
from dplit.grads.batch_layout import Role
from dplit.grads.coupling.trial import Trials
from dplit.sampling.loader import poisson_loader
from dplit.training import probing
from dplit.training.checks.loader import TrainLoader
from dplit.training.physical_batches import PhysicalBatches, StepArguments
from dplit.training.probing import Probes, check_coupling, find_physical_batch_size
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
    monkeypatch.setattr(probing, "check_company", lambda *given: None)
    with pytest.raises(pytest.fail.Exception):
        test_mixed_examples_are_refused()


def test_other_records_are_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    honest = probing.fetch_samples
    monkeypatch.setattr(
        probing, "fetch_samples", lambda data, chosen: seen.append(tuple(chosen)) or honest(data, chosen)
    )
    check_coupling(*looked_at(Linear()), GIVEN)
    examined = [chosen for chosen in seen if len(chosen) == 8]
    assert len(examined) == probing.PROBES
    assert len(set(examined)) > 1


def test_the_size_that_is_found_fits_and_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    batches, train = looked_at(Linear())
    size = find_physical_batch_size(batches, train, Flat(), GIVEN, None)
    assert size & (size - 1) == 0
    assert f"physical batch size {size} examples, found by trial on cpu" in capsys.readouterr().err


# -- when it is looked again -------------------------------------------------------------------------------------------


class Changing(Linear):
    """Multiplies by the batch's mean loss once `coupled` is set."""

    coupled = False

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        losses = super().losses(batch)
        return losses * losses.mean() if self.coupled else losses


def probes_of(module: Linear) -> Probes:
    batches, train = looked_at(module)
    return Probes(batches, train, Trials(module))


def law_coupling_that_begins_later_is_found(begins: int) -> None:
    module = Changing()
    probes = probes_of(module)
    look_until(probes, begins - 1)
    module.coupled = True
    with pytest.raises(CoupledExamples):
        look_until(probes, 2 * begins)


def look_until(probes: Probes, last: int) -> None:
    while probes._draws <= last:
        probes.before_draw(GIVEN)


@pytest.mark.parametrize("begins", [1, 3, 5])
def test_coupling_that_begins_later_is_found_at_the_next_power_of_two(begins: int) -> None:
    law_coupling_that_begins_later_is_found(begins)


def test_mutant_that_looks_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_is_power_of_two", lambda n: False)
    with pytest.raises(pytest.fail.Exception):
        law_coupling_that_begins_later_is_found(3)


def law_changes_are_looked_at(change: Any) -> None:
    module = Changing()
    module.net = nn.Sequential(module.net, nn.Dropout(0.1))
    probes = probes_of(module)
    for _ in range(6):
        probes.before_draw(GIVEN)
    module.coupled = True
    assert not probes.before_draw(GIVEN)
    change(module, probes)
    with pytest.raises(CoupledExamples):
        probes.before_draw(GIVEN)


CHANGED = {
    "mode": lambda module, probes: module.net[1].eval(),
    "frozen": lambda module, probes: module.net[0].bias.requires_grad_(False),
    "loader": lambda module, probes: setattr(probes, "train", looked_at(module)[1]),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_change_of_modes_or_loader_is_looked_at_at_once(name: str) -> None:
    law_changes_are_looked_at(CHANGED[name])


def test_mutant_blind_to_modes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probes, "_changed", lambda self: False)
    with pytest.raises(pytest.fail.Exception):
        law_changes_are_looked_at(CHANGED["mode"])


def test_new_epochs_are_looked_at() -> None:
    probes = probes_of(Linear())
    looked = [probes.before_draw(GIVEN, epoch) for epoch in (0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3)]
    assert [i for i, it in enumerate(looked) if it] == [0, 1, 2, 4, 6, 8]


def test_what_later_probes_take_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the probes move: none after the free seconds are used; one that the fit moves lets them go on."""
    now = [0.0]
    monkeypatch.setattr(probing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(probing, "check_company", lambda *given: now.__setitem__(0, now[0] + 1.5))
    probes = probes_of(Linear())
    looked = []
    for draw in range(300):
        now[0] += 1.0 if draw > 32 else 0.0
        looked += [draw] if probes.before_draw(GIVEN) else []
    assert looked == [0, 1, *[draw for draw in looked if draw > 32]]
    assert len(looked) > 2
    assert probes._spent <= max(probing.FREE_SECONDS, probing.SHARE * now[0])


def test_later_probes_take_no_more_memory_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    probes, sizes = probes_of(Linear()), []
    monkeypatch.setattr(
        probing, "examine_in_company", lambda trials, gradients, samples, *rest: sizes.append(len(samples))
    )
    for size in (2, 8, 16):
        probes.train.collate.max_rows = size
        probes._again(GIVEN)
    assert sizes == [2, 8, 8, 16]


def test_the_size_in_use_is_looked_at() -> None:
    """What mixes only where more than eight examples are together."""

    class Crowd(Linear):
        def losses(self, batch: dict[str, Tensor]) -> Tensor:
            losses = super().losses(batch)
            return losses * losses.mean() if len(losses) > 8 else losses

    batches, train = looked_at(Crowd())
    check_coupling(batches, train, GIVEN)
    train.collate.max_rows = 16
    with pytest.raises(CoupledExamples):
        check_coupling(batches, train, GIVEN)


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


def test_where_all_gradients_are_zero_it_is_looked_again() -> None:
    class Later(Changing):
        """Coupled, behind a factor that is 0 at first."""

        factor = 0.0
        coupled = True

        def losses(self, batch: dict[str, Tensor]) -> Tensor:
            return self.factor * super().losses(batch)

    module = Later()
    probes = probes_of(module)
    assert [probes.before_draw(GIVEN) for _ in range(4)] == [True] * 4
    module.factor = 1.0
    with pytest.raises(CoupledExamples):
        probes.before_draw(GIVEN)
