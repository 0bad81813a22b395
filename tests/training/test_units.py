"""Persons with several records, and records with copies: drawn, clipped and charged as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate

import dplit
from dplit.clipping import Flat, GroupQuantile, GroupRates, GroupThresholds
from dplit.data.units import Copies, flattened
from dplit.errors import ConfigurationError, PrivacyError
from dplit.fairness import FairnessMonitor
from dplit.privacy import read
from dplit.privacy.ledger import Ledger
from dplit.protocols import UnitSamples
from dplit.sampling.loader import poisson_loader
from dplit.sampling.units import People, members, unit_ids, unit_name
from tests.lightning import Data, Linear, fit, trainer
from tests.training.strategies.test_policies import GROUPS


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
    everyone = len(data) if strategy.unit is None else len(data.user.unique())
    fit(module, strategy, DataLoader(data, batch_size=batch or everyone), max_epochs=1)
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
@pytest.mark.parametrize("grads", ["tape", "vmap", "loop"])
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


@pytest.mark.parametrize("most", [1, 2, 7, 300])
def test_copies_are_averaged_inside_the_clip(most: int) -> None:
    law_copies_are_averaged_inside_the_clip(most)


def law_no_more_rows_than_declared_go_through_the_model(grads: str) -> None:
    """Were a person with many records computed at once, a fit would end or not by who was drawn (promise 9)."""

    sizes: list[int] = []

    class Counting(Linear):
        def losses(self, batch: dict[str, Tensor]) -> Tensor:
            sizes.append(len(batch["x"]))
            return super().losses(batch)

    data = Persons()
    data.user[:40] = 0
    strategy = dplit.DPStrategy(Flat(0.2), 1.0, 8, unit="user", grads=grads)
    fit(Counting(), strategy, DataLoader(data, batch_size=len(data.user.unique())))
    assert max(sizes) <= 8


@pytest.mark.parametrize("grads", ["tape", "vmap", "loop"])
def test_no_more_rows_than_declared_go_through_the_model(grads: str) -> None:
    law_no_more_rows_than_declared_go_through_the_model(grads)


def test_mutant_a_large_person_computed_at_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.sampling.draws._pieces", lambda unit, max_rows: [unit])
    with pytest.raises(AssertionError):
        law_no_more_rows_than_declared_go_through_the_model("tape")


@pytest.mark.parametrize("grads", ["tape", "vmap", "loop"])
@pytest.mark.parametrize("most", [1, 2, 100])
def test_a_bad_record_takes_its_person_out_and_nobody_else(grads: str, most: int) -> None:
    data = Persons()
    data.x[21] = float("nan")
    data.x[42] = float("inf")
    found, _ = summed(dplit.DPStrategy(Flat(0.2), 1e-9, most, unit="user", grads=grads), data)
    sets = [[data[i] for i in range(64) if i % 20 == k] for k in range(20) if k not in (1, 2)]
    assert torch.allclose(found, clipped_means(data, sets, 0.2) * 18 / 20, atol=1e-6)


def test_copies_inside_other_data_sets() -> None:
    data = Persons()
    wholes = [Subset(Copies(data, swapped), range(64)), ConcatDataset([Copies(data, swapped)])]
    sets = [[data[i], *swapped(data[i])] for i in range(64)]
    for whole in wholes:
        found, _ = summed(dplit.DPStrategy(Flat(0.2), 1e-9, 10), whole)
        assert torch.allclose(found, clipped_means(data, sets, 0.2), atol=1e-6)


def test_copies_of_copies_belong_to_one_record() -> None:
    twice = Copies(Copies(Data(), swapped), lambda sample: [sample | {"x": 2 * sample["x"]}])
    assert len(twice[0]) == 6
    assert isinstance(twice[0], UnitSamples)
    assert all(isinstance(row, dict) for row in twice[0])


def test_persons_with_copies_of_their_records_are_still_one() -> None:
    data = Persons()
    sets = [[r for i in range(64) if i % 20 == k for r in (data[i], *swapped(data[i]))] for k in range(20)]
    found, _ = summed(dplit.DPStrategy(Flat(0.2), 1e-9, 10, unit="user"), Copies(data, swapped))
    assert torch.allclose(found, clipped_means(data, sets, 0.2), atol=1e-6)


def test_mutant_copies_clipped_as_separate_records_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Way 5: augmented copies of one record clipped one by one."""
    monkeypatch.setattr("dplit.sampling.draws.owners", lambda samples: None)
    with pytest.raises(AssertionError):
        law_copies_are_averaged_inside_the_clip(300)


def test_mutant_a_person_split_over_physical_batches_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def cuts(samples: Any, most: int) -> Any:
        rows = [row for sample in samples for row in (sample if isinstance(sample, UnitSamples) else [sample])]
        return ([UnitSamples([row]) for row in rows[i : i + most]] for i in range(0, len(rows), most))

    monkeypatch.setattr("dplit.sampling.draws.cut_into_physical_batches", cuts)
    with pytest.raises(AssertionError):
        law_persons_are_clipped_as_one("tape", 10)


def law_a_person_is_drawn_whole(loader_of: Any) -> None:
    """All records of a person or none, at the rate of the batch size in persons."""
    data = Persons()
    loader = loader_of(DataLoader(data, batch_size=5), 1000, None, lambda batch: batch["user"].tolist())
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
    assert (stated["dataset_size"], stated["expected_batch_size"], stated["sampling"]["rate"]) == (20, 16.0, 0.8)
    assert not any("several records" in line for line in stated["voided_by"])
    assert read("ledger.jsonl").steps == 4


@pytest.mark.parametrize("policy", [GroupQuantile(), GroupRates(dict(zip(GROUPS, [1.0, 2.0, 3.0], strict=True)))])
def test_groups_of_persons(policy: Any) -> None:
    strategy = dplit.DPStrategy(policy, 1.0, 7, unit="user", groups=GROUPS)
    fit(Linear(), strategy, DataLoader(Persons(), batch_size=5), max_epochs=2)
    assert strategy.ledger.steps == 8


def law_a_person_in_two_groups_is_refused_before_training() -> None:
    """An error at the step that draws the person would say who was drawn (promise 9)."""
    data = Persons()
    data.group[60] += 1
    strategy = dplit.DPStrategy(GroupQuantile(), 1.0, unit="user", groups=(*GROUPS, "other"))
    with pytest.raises(ConfigurationError, match="different groups") as caught:
        fit(Linear(), strategy, DataLoader(data, batch_size=1), max_epochs=3)
    assert "\n" not in str(caught.value)
    assert strategy.ledger.steps == 0


def test_a_person_in_two_groups_is_refused_before_training() -> None:
    law_a_person_in_two_groups_is_refused_before_training()


def test_mutant_groups_of_persons_not_asked_before_training_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.setup.groups_of_units", lambda loader, read: None)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law_a_person_in_two_groups_is_refused_before_training()


def test_copies_are_in_the_group_of_their_record() -> None:
    """A swapped text may speak of another group; its record's group decides, and no step fails for it."""
    copies = Copies(Data(), lambda sample: [sample | {"group": (sample["group"] + 1) % 3}])
    strategy = dplit.DPStrategy(GroupThresholds(dict(zip(GROUPS, [0.1, 0.2, 0.3], strict=True))), 1e-9, groups=GROUPS)
    plainly = dplit.DPStrategy(GroupThresholds(dict(zip(GROUPS, [0.1, 0.2, 0.3], strict=True))), 1e-9, groups=GROUPS)
    assert torch.allclose(summed(strategy, copies)[0], summed(plainly, Data())[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unit": "person"}, "no entry 'person'"),
        ({"unit": "x"}, "integers of shape"),
    ],
)
def test_wrong_units_get_one_clear_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        fit(Linear(), dplit.DPStrategy(**options), DataLoader(Persons(), batch_size=16))
    assert "\n" not in str(caught.value)


def test_names_of_persons() -> None:
    assert unit_ids({"who": ["ann", "bob", "ann"]}, "who") == ["ann", "bob", "ann"]
    assert [part.tolist() for part in members(["ann", "bob", "ann"])] == [[0, 2], [1]]


def test_two_persons_are_never_taken_for_one() -> None:
    """One unit of two persons would move by twice the bound when one of them leaves it."""
    for ids in ([2**63 + 1, 2**63 + 2, 5], [1, "1", 2], ["a", "a\0", "b"]):
        assert [part.tolist() for part in members(ids)] == [[0], [1], [2]]


def law_records_of_others_are_refused(data: Any, **options: Any) -> None:
    """Persons are read once; were their indices then other persons' records, those would share a clip."""
    strategy = dplit.DPStrategy(Flat(), 1.0, 8, unit="user")
    with pytest.raises(PrivacyError, match="came back as another's") as caught:
        fit(Linear(), strategy, DataLoader(data, batch_size=16, **options))
    assert "\n" not in str(caught.value)
    assert strategy.ledger.steps == 0


class Moving(Persons):
    """Which record an index gives changes from one reading to the next."""

    reads = 0

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        self.reads += 1
        return super().__getitem__((i + self.reads // 64) % 64)


def stably(rows: list[dict[str, Tensor]]) -> Any:
    """Sorts by what is all the same in the records that the coupling probe may see."""
    return default_collate(sorted(rows, key=lambda row: bool(row["x"][0] == 7)))


def test_a_data_set_that_moves_its_records_is_refused() -> None:
    law_records_of_others_are_refused(Moving())


def test_a_collate_function_that_sorts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if what looks at a few records before the first release does not see it."""
    data = Persons()
    data.x[:, 0] = torch.where(torch.arange(64) % 2 == 0, 7.0, 1.0)
    monkeypatch.setattr("dplit.training.probing.examine", lambda *args: True)
    monkeypatch.setattr("dplit.training.private_fit.check_collation", lambda train: None)
    law_records_of_others_are_refused(data, collate_fn=stably)


def test_mutant_rows_not_compared_with_whom_was_drawn_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.training.physical_batches.check_owners", lambda part, key: None)
    with pytest.raises(pytest.fail.Exception):
        law_records_of_others_are_refused(Moving())


def test_copies_of_another_person_are_refused() -> None:
    copies = Copies(Persons(), lambda sample: [sample | {"user": sample["user"] + 1}])
    with pytest.raises(ConfigurationError, match="another person's"):
        fit(Linear(), dplit.DPStrategy(unit="user"), DataLoader(copies, batch_size=16))


def law_a_ledger_is_of_one_unit(before: Any, after: Any, tmp_path: Path) -> None:
    """The statement's unit is that of every step in it, however the fit goes on."""
    module, data = Linear(), DataLoader(Persons(), batch_size=3)
    first = dplit.DPStrategy(Flat(), 1.0, 8, unit=before)
    fit(module, first, data).save_checkpoint(tmp_path / "a.ckpt")
    steps = first.ledger.steps
    with pytest.raises(PrivacyError, match="keep the unit"):
        fit(module, dplit.DPStrategy(Flat(), 1.0, 8, unit=after, ledger=first.ledger), data)
    again = trainer(dplit.DPStrategy(Flat(), 1.0, 8, unit=after), max_epochs=2)
    with pytest.raises(PrivacyError, match="keep the unit"):
        again.fit(Linear(), data, ckpt_path=tmp_path / "a.ckpt", weights_only=False)
    assert read("ledger.jsonl").steps == steps > 0


@pytest.mark.parametrize(("before", "after"), [(None, "user"), ("user", None), ("user", "group")])
def test_a_ledger_is_of_one_unit(before: Any, after: Any, tmp_path: Path) -> None:
    law_a_ledger_is_of_one_unit(before, after, tmp_path)


def test_mutant_a_unit_that_is_not_kept_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Ledger, "check_unit", lambda self, unit, split="train": None)
    with pytest.raises(pytest.fail.Exception):
        law_a_ledger_is_of_one_unit(None, "user", tmp_path)


def test_persons_resume_as_persons(tmp_path: Path) -> None:
    data = DataLoader(Persons(), batch_size=5)
    fit(Linear(), dplit.DPStrategy(Flat(), 1.0, 8, unit="user"), data).save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(dplit.DPStrategy(Flat(), 1.0, 8, unit="user"), max_epochs=2)
    again.fit(Linear(), data, ckpt_path=tmp_path / "a.ckpt", weights_only=False)
    assert json.loads(Path("privacy.json").read_text())["steps"] == 8


def test_noisy_counts_of_records_are_refused_for_persons() -> None:
    """They are charged for one record; a person may have several in the validation split."""
    monitor = FairnessMonitor(groups=GROUPS, release="noisy")
    with pytest.raises(PrivacyError, match="several in the split"):
        fit(Linear(), dplit.DPStrategy(unit="user"), DataLoader(Persons(), batch_size=16), callbacks=[monitor])


def test_the_statement_says_when_splits_must_be_of_different_persons() -> None:
    strategy = dplit.DPStrategy(Flat(), 1.0, unit="user")
    fit(Linear(), strategy, DataLoader(Persons(), batch_size=16))
    strategy.release_statistic(torch.zeros(3), sensitivity=1.0, noise_multiplier=50.0)
    strategy.teardown()
    stated = json.loads(Path("privacy.json").read_text())
    assert any("records in more than one split" in line for line in stated["voided_by"])
    assert "each person" in stated["sampling"]["scheme"]
    assert "number of persons, which is taken to be public" in stated["sampling"]["scheme"]


def test_a_function_that_says_whose_is_called_by_its_name() -> None:
    assert [unit_name(key) for key in (None, 2, "user", unit_ids)] == [None, "2", "user", "unit_ids"]


def test_copies_outside_a_private_fit_are_examples() -> None:
    class Mean(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.losses(batch).mean()

    loader = DataLoader(Copies(Data(), swapped), batch_size=8, collate_fn=flattened(default_collate))
    assert next(iter(loader))["x"].shape == (24, 6)
    trainer("auto", max_epochs=1).fit(Mean(), loader)


def test_a_persons_records_are_fetched_at_once() -> None:
    people = People(Persons(), members(list(range(10)) * 2))
    assert isinstance(people[3], UnitSamples)
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
        fit(module, strategy, DataLoader(Persons(), batch_size=20), max_epochs=2)
        weights.append(module.net.weight.detach().clone())
    assert torch.allclose(*weights, atol=1e-6)
