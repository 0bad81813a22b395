"""SubgroupDiagnostics in real, tiny fits: the generalisation gap, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from dplit.diagnostics import SubgroupDiagnostics, callback
from dplit.errors import ConfigurationError
from dplit.fairness.plotting import save
from dplit.protocols import ReleasesFigures
from tests.diagnostics.project import GROUPS, SIZE, Net, fit, indices_of, public, rows
from tests.lightning import Data, Linear, trainer

# ---- the generalisation gap


def accuracy(module: Any, data: Data, indices: Any, group: int) -> float:
    chosen = [i for i in indices if data.group[i] == group]
    return float((module.net(data.x[chosen]).argmax(1) == data.y[chosen]).double().mean())


def test_the_gap_is_that_of_the_sample_and_the_validation_split() -> None:
    module = Net()
    fit(public(every=2), module=module, max_epochs=2)
    module.eval()
    found = rows(epoch=1)
    for k, name in enumerate(GROUPS[:3]):
        train, validation = accuracy(module, Data(SIZE), indices_of(), k), accuracy(module, Data(30), range(30), k)
        assert found["train", name, "accuracy"] == pytest.approx(train)
        assert found["validation", name, "accuracy"] == pytest.approx(validation)
        assert found["train minus validation", name, "accuracy"] == pytest.approx(train - validation)
    assert found["validation", "", "n"] == 30
    chosen = Data(SIZE).x[indices_of()], Data(SIZE).y[indices_of()]
    loss = F.cross_entropy(module.net(chosen[0]), chosen[1]).item()
    assert found["train", "", "loss"] == pytest.approx(loss, rel=1e-5)
    assert math.isnan(found["train minus validation", "absent", "loss"])


class Writer(Net):
    """Says what a language model says."""

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.losses(batch), "tokens": 1 + batch["y"]}


def test_the_gap_of_a_language_model_is_of_losses_and_perplexities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "save", save)
    module = Writer()
    fit(public(), module=module)
    module.eval()
    found, expected = rows(), {}
    for split, data, chosen in (("train", Data(SIZE), indices_of()), ("validation", Data(30), range(30))):
        at = [i for i in chosen if data.group[i] == 0]
        losses = F.cross_entropy(module.net(data.x[at]), data.y[at], reduction="none").detach()
        expected[split] = float(((losses * (1 + data.y[at])).sum() / (1 + data.y[at]).sum()).exp())
        assert found[split, "a", "perplexity"] == pytest.approx(expected[split], rel=1e-5)
        assert found[split, "a", "loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    gap = expected["train"] - expected["validation"]
    assert found["train minus validation", "a", "perplexity"] == pytest.approx(gap, abs=1e-4)
    assert not any(metric == "accuracy" for _, _, metric in found)
    assert Path("diagnostics.png").is_file()


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 2}])
def test_without_a_validation_at_the_epochs_end_there_is_no_gap(options: dict[str, Any]) -> None:
    fit(public(), max_epochs=2 if options.get("check_val_every_n_epoch") else 1, **options)
    found = rows()
    assert math.isnan(found["train minus validation", "a", "accuracy"])
    assert found["train", "a", "norm_mean"] > 0


class Averaged(Callback):
    """Validates under other weights, as weight averaging does."""

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.kept = {k: v.clone() for k, v in pl_module.net.state_dict().items()}
        for p in pl_module.net.parameters():
            p.data.zero_()
        pl_module.net[3].bias.data[1] = 1.0

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net.load_state_dict(self.kept)


def test_both_sides_of_the_gap_have_the_weights_of_validation() -> None:
    fit(public(), callbacks=(Averaged(),))
    data, chosen = Data(SIZE), torch.tensor(indices_of())
    assert rows()["train", "", "accuracy"] == pytest.approx(float((data.y[chosen] == 1).double().mean()))


# ---- where it goes, and what is refused


def test_the_statement_names_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "save", save)
    run = fit(public())
    released = json.loads(Path("privacy.json").read_text())["released_without_charge"]
    assert [line.split(" (")[0] for line in released if line.startswith("diagnostics")] == [
        "diagnostics.csv",
        "diagnostics.png",
    ]
    assert all("declared public" in line for line in released if line.startswith("diagnostics"))
    assert Path("diagnostics.png").read_bytes().startswith(b"\x89PNG")
    assert not any("diagnostics" in name for name in run.callback_metrics)


def test_each_fit_has_its_own_file_and_epochs_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    diagnostics = public(every=2)
    fit(diagnostics, max_epochs=5)
    fit(diagnostics, max_epochs=2)
    with Path("diagnostics.csv").open() as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"1", "3"}
    assert len(rows("diagnostics-1.csv", 1)) == len(rows(epoch=1))
    assert diagnostics.released_without_charge()[0].startswith("diagnostics-1.csv (")
    assert "a" not in capsys.readouterr().out.split()


def test_nothing_was_measured_nothing_is_written() -> None:
    diagnostics = public(every=3)
    fit(diagnostics, max_epochs=2)
    fit(public(), fast_dev_run=True)
    assert not list(Path().glob("diagnostics*"))
    assert diagnostics.released_without_charge() == []


@pytest.mark.parametrize("said", [{}, {"declared_public": False}, {"declared_public": "yes"}])
def test_private_data_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^declared_public=.*without charge; .*set declared_public=True.*$"
    ) as no:
        SubgroupDiagnostics(**said)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("setting", [{"every": 0}, {"records": 0}, {"every": True}, {"records": 2.5}])
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="whole number of at least 1"):
        public(**setting)


def test_plain_training_and_undeclared_groups_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="measures the clipping of DPStrategy"):
        trainer("auto", callbacks=[public()]).fit(Linear(), DataLoader(Data(), batch_size=8))
    with pytest.raises(ConfigurationError, match="no groups to tell apart"):
        fit(public(), strategy={"groups": None})


def test_it_says_itself_what_it_releases() -> None:
    assert isinstance(public(), ReleasesFigures)
    assert public().logged_keys == frozenset()
