"""Persons with several records, and records with copies: drawn, clipped and charged as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

import dplit
from dplit.clipping import Flat, GroupQuantile, GroupRates
from dplit.data.sampling import poisson_loader
from dplit.data.units import Copies, People, Together, flattened, members, unit_ids
from dplit.errors import ConfigurationError
from dplit.privacy import read
from tests.lightning import Data, Linear, fit, trainer
from tests.test_strategy_policies import GROUPS


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Persons(Data):
    """Person k holds the records k, k + 20, k + 40 ...; the first ones hold four, the others three."""

    persons = 20

    def __init__(self, size: int = 64) -> None:
        super().__init__(size)
        self.user = torch.arange(size) % self.persons
        self.group = self.user % 3

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return super().__getitem__(i) | {"user": self.user[i]}


def swapped(sample: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [sample | {"x": -sample["x"]}, sample | {"x": sample["x"].flip(0)}]


def summed(strategy: Any, data: Any, batch: int | None = None) -> tuple[Tensor, Linear]:
    """The one step of a fit in which everything is drawn, as a gradient of the sum."""
    torch.manual_seed(0)
    module = Linear(1.0)
    start = torch.cat([p.detach().flatten() for p in module.parameters()])
    fit(module, strategy, DataLoader(data, batch_size=batch or len(data)), max_epochs=1)
    after = torch.cat([p.detach().flatten() for p in module.parameters()])
    return (start - after).double(), module


def clipped_means(data: Any, sets: list[list[dict[str, Tensor]]], bound: float) -> Tensor:
    """One backward per unit, of the mean of its losses."""
    torch.manual_seed(0)
    module = Linear(1.0)
    total = torch.zeros(sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    for rows in sets:
        losses = module.losses(default_collate(rows))
        grads = torch.autograd.grad(losses.mean(), list(module.parameters()))
        grad = torch.cat([g.flatten() for g in grads]).double()
        total += grad * min(1.0, bound / float(grad.norm()))
    return total / len(sets)


def law_persons_are_clipped_as_one(grads: str, most: int) -> None:
    data = Persons()
    strategy = dplit.DPStrategy(Flat(0.2), 1e-9, most, unit="user", grads=grads)
    sets = [[data[i] for i in range(64) if i % 20 == k] for k in range(20)]
    found, _ = summed(strategy, data)
    assert torch.allclose(found, clipped_means(data, sets, 0.2), atol=1e-6)


@pytest.mark.parametrize("most", [1, 3, 10, 100])
@pytest.mark.parametrize("grads", ["tape", "vmap"])
def test_persons_are_clipped_as_one(grads: str, most: int) -> None:
    law_persons_are_clipped_as_one(grads, most)


def law_copies_are_averaged_inside_the_clip(most: int) -> None:
    data = Data()
    strategy = dplit.DPStrategy(Flat(0.2), 1e-9, most)
    found, _ = summed(strategy, Copies(data, swapped))
    sets = [[data[i], *swapped(data[i])] for i in range(64)]
    assert torch.allclose(found, clipped_means(data, sets, 0.2), atol=1e-6)
    (event,) = strategy.ledger.entries["train"]
    assert (event.rate, strategy.ledger.steps) == (1.0, 1)


@pytest.mark.parametrize("most", [1, 7, 300])
def test_copies_are_averaged_inside_the_clip(most: int) -> None:
    law_copies_are_averaged_inside_the_clip(most)


def test_persons_with_copies_of_their_records_are_still_one() -> None:
    data = Persons()
    sets = [[r for i in range(64) if i % 20 == k for r in (data[i], *swapped(data[i]))] for k in range(20)]
    found, _ = summed(dplit.DPStrategy(Flat(0.2), 1e-9, 10, unit="user"), Copies(data, swapped))
    assert torch.allclose(found, clipped_means(data, sets, 0.2), atol=1e-6)


def test_mutant_copies_clipped_as_separate_records_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Way 5: augmented copies of one record clipped one by one."""
    monkeypatch.setattr("dplit.data.sampling.owners", lambda samples: None)
    with pytest.raises(AssertionError):
        law_copies_are_averaged_inside_the_clip(300)


def test_mutant_a_person_split_over_physical_batches_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def cuts(samples: Any, most: int) -> Any:
        rows = [row for sample in samples for row in (sample if isinstance(sample, Together) else [sample])]
        return ([Together([row]) for row in rows[i : i + most]] for i in range(0, len(rows), most))

    monkeypatch.setattr("dplit.data.sampling._cuts", cuts)
    with pytest.raises(AssertionError):
        law_persons_are_clipped_as_one("tape", 10)


def law_a_person_is_drawn_whole(loader_of: Any) -> None:
    """All records of a person or none, each person at the rate of a record."""
    data = Persons()
    loader = loader_of(DataLoader(data, batch_size=16), 1000, None, lambda batch: batch["user"].tolist())
    assert len(loader) == 4
    counts, whole = np.zeros(20), True
    for _ in range(500):
        for draw in loader:
            users = torch.cat([part.batch["user"] for part in draw.parts]) if draw.parts else torch.zeros(0).long()
            held = torch.bincount(users, minlength=20)
            whole &= set(held[:4].tolist()) <= {0, 4}
            whole &= set(held[4:].tolist()) <= {0, 3}
            counts += (held > 0).numpy()
    assert whole
    assert np.abs(counts - 2000 * 0.25).max() < 6 * np.sqrt(2000 * 0.25 * 0.75)


def test_a_person_is_drawn_whole() -> None:
    law_a_person_is_drawn_whole(poisson_loader)


def test_mutant_records_drawn_one_by_one_is_caught() -> None:
    with pytest.raises(AssertionError):
        law_a_person_is_drawn_whole(lambda loader, most, stratify, unit: poisson_loader(loader, most))


def test_statement_and_charge_are_about_persons() -> None:
    strategy = dplit.DPStrategy(Flat(), 1.0, unit="user", groups=GROUPS)
    fit(Linear(), strategy, DataLoader(Persons(), batch_size=16), max_epochs=2)
    stated = json.loads(Path("privacy.json").read_text())
    assert stated["unit"] == "one person: all records with the same 'user'"
    assert stated["adjacency"] == "add or remove one person"
    assert (stated["dataset_size"], stated["expected_batch_size"], stated["sampling"]["rate"]) == (20, 5.0, 0.25)
    assert not any("several records" in line for line in stated["voided_by"])
    assert read("ledger.jsonl").steps == 8


@pytest.mark.parametrize("policy", [GroupQuantile(), GroupRates(dict(zip(GROUPS, [1.0, 2.0, 3.0], strict=True)))])
def test_groups_of_persons(policy: Any) -> None:
    strategy = dplit.DPStrategy(policy, 1.0, 7, unit="user", groups=GROUPS)
    fit(Linear(), strategy, DataLoader(Persons(), batch_size=16), max_epochs=2)
    assert strategy.ledger.steps == 8


def test_a_person_in_two_groups_is_refused_before_training() -> None:
    data = Persons()
    data.group = torch.arange(64) % 3
    strategy = dplit.DPStrategy(GroupQuantile(), 1.0, unit="user", groups=GROUPS)
    with pytest.raises(ConfigurationError, match="different groups") as caught:
        fit(Linear(), strategy, DataLoader(data, batch_size=64))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unit": "person"}, "no entry 'person'"),
        ({"unit": "x"}, "integers of shape"),
        ({"unit": "user", "grads": "loop"}, "several"),
    ],
)
def test_wrong_units_get_one_clear_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        fit(Linear(), dplit.DPStrategy(**options), DataLoader(Persons(), batch_size=16))
    assert "\n" not in str(caught.value)


def test_names_of_persons() -> None:
    assert unit_ids({"who": ["ann", "bob", "ann"]}, "who") == ["ann", "bob", "ann"]
    assert [part.tolist() for part in members(["ann", "bob", "ann"])] == [[0, 2], [1]]


def test_copies_outside_a_private_fit_are_examples() -> None:
    class Mean(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.losses(batch).mean()

    loader = DataLoader(Copies(Data(), swapped), batch_size=8, collate_fn=flattened(default_collate))
    assert next(iter(loader))["x"].shape == (24, 6)
    trainer("auto", max_epochs=1).fit(Mean(), loader)


def test_a_persons_records_are_fetched_at_once() -> None:
    people = People(Persons(), members(list(range(10)) * 2))
    assert isinstance(people[3], Together)
    assert [len(found) for found in people.__getitems__([0, 9])] == [2, 2]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_scalar_loss_with_its_reduction_trains_persons_alike(reduction: str) -> None:
    class Scalar(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return getattr(self.losses(batch), reduction)()

    weights = []
    for module, declared in ((Linear(), None), (Scalar(), reduction)):
        torch.manual_seed(0)
        module.net = torch.nn.Linear(6, 3)
        strategy = dplit.DPStrategy(Flat(0.2), 1e-9, 10, unit="user", loss_reduction=declared)
        fit(module, strategy, DataLoader(Persons(), batch_size=64), max_epochs=2)
        weights.append(module.net.weight.detach().clone())
    assert torch.allclose(*weights, atol=1e-6)
