"""Nothing private leaves a fit unlisted, a probe lets nothing out, and a charged split no exact figure (promises 25, 29)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

import dplit
from dplit.errors import PrivacyError
from dplit.fairness import FairnessMonitor
from dplit.training.outlets import figures
from dplit.training.outlets.figures import Figures
from tests.lightning import SIZE, Linear, fit
from tests.training.outlets.evaluated import Evaluated, Split, fit_evaluated
from tests.training.outlets.notebook import ROADS, Notebook

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*Experiment logs directory.*")
PLACES = ("callback_metrics", "logged_metrics", "progress_bar_metrics")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stated() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("privacy.json").read_text())
    return found


def listed() -> list[str]:
    lines: list[str] = stated()["released_without_charge"]
    return lines


class Talking(Linear):
    """Lets its loss out by every road there is, under a name for each."""

    def __init__(self, roads: list[str]) -> None:
        super().__init__()
        self.roads, self.calls = roads, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = self.losses(batch)
        mean = float(losses.detach().mean())
        for road in self.roads:
            ROADS[road](self.logger, f"by_{road}", mean)
        self.log("by_log", mean, batch_size=len(losses))
        self.log_dict({"by_dict": mean}, prog_bar=True, batch_size=len(losses))
        for place in PLACES:
            getattr(self.trainer, place)[f"by_{place}"] = mean
        print("printed", mean)
        return losses


NAMES = {f"by_{road}" for road in (*ROADS, *PLACES, "log", "dict")}


def talk(training_logs: bool, roads: Any = tuple(ROADS), **options: Any) -> tuple[Notebook, Any]:
    notebook = Notebook()
    strategy = dplit.DPStrategy(training_logs=training_logs, physical_batch_size=SIZE)
    run = fit(Talking([*roads]), strategy, logger=notebook, log_every_n_steps=1, enable_progress_bar=False, **options)
    return notebook, run


def names_that_left(notebook: Notebook, run: Any) -> set[str]:
    """Names that are anywhere outside after a fit, with a number."""
    kept = {name for entry in notebook.kept for name, value in entry.items() if not math.isnan(value)}
    places = {name for place in PLACES for name in getattr(run, place)}
    return {name for name in (*kept, *places, *vars(notebook.writer)) if name.startswith("by_")}


def law_nothing_leaves_unlisted() -> None:
    notebook, run = talk(training_logs=True)
    left = names_that_left(notebook, run)
    assert left == NAMES
    assert left <= {line.partition(":")[0] for line in listed()}


def test_nothing_leaves_unlisted() -> None:
    law_nothing_leaves_unlisted()


def law_without_training_logs_nothing_leaves() -> None:
    notebook, run = talk(training_logs=False)
    assert names_that_left(notebook, run) == set()


def test_without_training_logs_nothing_leaves() -> None:
    law_without_training_logs_nothing_leaves()
    assert "by_log_metrics: held back where training_step gives it to Notebook.log_metrics" in listed()
    assert not any(line.startswith(("by_log:", "by_dict:")) for line in listed())


@contextmanager
def unwatched(self: Figures, *given: Any) -> Iterator[None]:
    yield


def test_mutant_steps_unwatched_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figures, "step", unwatched)
    with pytest.raises(AssertionError):
        law_nothing_leaves_unlisted()


def test_mutant_that_admits_everything_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figures, "admits", lambda self, name, hook: True)
    with pytest.raises(AssertionError):
        law_without_training_logs_nothing_leaves()


def law_a_probe_lets_nothing_out(capsys: Any) -> None:
    """As many figures are out as there were draws, and what stopped before the first of them let out none."""
    notebook, run = talk(training_logs=True, roads=["log_metrics", "experiment"])
    for name in ("by_log_metrics", "by_experiment"):
        assert sum(name in entry for entry in notebook.kept) == run.global_step
    assert capsys.readouterr().out.count("printed") == run.global_step


def test_a_probe_lets_nothing_out(capsys: Any) -> None:
    law_a_probe_lets_nothing_out(capsys)


def test_mutant_that_tells_of_the_probe_is_caught(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(Figures, "silence", lambda self: nullcontext())
    with pytest.raises(AssertionError):
        law_a_probe_lets_nothing_out(capsys)


def test_a_refusal_by_the_probe_leaves_no_figure() -> None:
    class Coupled(Talking):
        def losses(self, batch: Any) -> Any:
            return super().losses(batch) * super().losses(batch).mean()

    notebook = Notebook()
    with pytest.raises(PrivacyError):
        fit(Coupled([*ROADS]), logger=notebook)
    assert [name for name in notebook.names if name.startswith("by_")] == []
    assert type(notebook) is Notebook


def test_a_debugger_is_still_heard(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    silent = figures._Nowhere()
    with monkeypatch.context() as patch:
        patch.setattr(figures.sys, "gettrace", lambda: None)
        silent.write("unheard ")
        patch.setattr(figures.sys, "gettrace", lambda: print)
        silent.write("(Pdb) ")
        figures.sys.__stdout__.flush()
    assert "unheard" not in capfd.readouterr().out + silent.getvalue()


class Losses(Callback):
    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize("logs", [True, False])
def test_who_is_given_the_mean_loss_is_named(logs: bool) -> None:
    fit(strategy=dplit.DPStrategy(training_logs=logs), callbacks=[Losses()])
    assert listed() == ["loss: exact mean of each draw, given to Losses.on_train_batch_end"] * logs


# -- a split whose counts are charged ----------------------------------------------------------------------------------


class Announcing(Evaluated):
    """Gives its loggers figures of the split, too."""

    def _evaluated(self, batch: Any, split: str) -> dict[str, Any]:
        outputs = super()._evaluated(batch, split)
        self.trainer.callback_metrics[f"{split}/direct"] = outputs["loss"].mean()
        if self.logger:
            self.logger.log_metrics({f"{split}/handed": float(outputs["loss"].mean())})
        return outputs


def noisy(**options: Any) -> FairnessMonitor:
    return FairnessMonitor(release="noisy", noise_multiplier=5.0, table=False, picture=False, **options)


def law_a_charged_split_lets_no_exact_figure_out(**options: Any) -> dict[str, Any]:
    strategy = dplit.DPStrategy()
    logger = CSVLogger(Path.cwd(), name="", version="")
    run = fit_evaluated(strategy, Announcing(), callbacks=[noisy(**options)], logger=logger, log_every_n_steps=1)
    places = {name for place in PLACES for name in getattr(run, place)}
    (tested,) = run.test(run.lightning_module, datamodule=Split(), verbose=False)
    places |= {name for place in PLACES for name in getattr(run, place)} | tested.keys()
    table = Path("metrics.csv").read_text().splitlines()
    columns = [dict(zip(table[0].split(","), row.split(","), strict=True)) for row in table[1:]]
    places |= {name for row in columns for name, value in row.items() if value not in ("", "nan")}
    assert {"fairness/overall_accuracy", "test_fairness/overall_accuracy", "train_loss"} <= places
    assert not any(name.startswith(("val/", "test/")) for name in places)
    assert all(isinstance(epsilon, float) for epsilon in stated()["splits"].values())
    assert {"validation", "test"} <= stated()["splits"].keys()
    return stated()


def test_a_charged_split_lets_no_exact_figure_out(capsys: Any) -> None:
    law_a_charged_split_lets_no_exact_figure_out()
    said = [line for line in capsys.readouterr().err.splitlines() if "drop_exact=False" in line]
    assert len(said) == 1
    assert said[0].startswith("dplit: dropped val/loss and whatever else validation_step logs")


def test_mutant_that_drops_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figures, "_drops_exact", lambda self, trainer: False)
    with pytest.raises(AssertionError):
        law_a_charged_split_lets_no_exact_figure_out()


def law_no_epsilon_where_exact_figures_left(strategy: Any, **options: Any) -> None:
    fit_evaluated(strategy, **options)
    assert stated()["splits"]["validation"].startswith("not stated: exact figures of these records left uncharged, ")
    assert "val/loss" in stated()["splits"]["validation"]
    assert "validation ε = not stated" in Path("privacy.md").read_text()
    assert "val/loss: exact, logged outside training_step" in listed()


def test_who_keeps_exact_figures_gets_no_epsilon_for_the_split() -> None:
    law_no_epsilon_where_exact_figures_left(dplit.DPStrategy(), callbacks=[noisy(drop_exact=False)])


class Releases(Callback):
    """Charges a statistic of its own beside the exact figures of the module."""

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        trainer.strategy.release_statistic(torch.zeros(2), sensitivity=1.0, noise_multiplier=50.0)


def test_a_statistic_beside_exact_figures_gets_no_epsilon_either() -> None:
    law_no_epsilon_where_exact_figures_left(dplit.DPStrategy(), callbacks=[Releases()])


def test_mutant_that_forgets_the_exact_figures_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figures, "exact_by_split", lambda self, trainer: {})
    with pytest.raises(AttributeError, match="startswith"):
        law_no_epsilon_where_exact_figures_left(dplit.DPStrategy(), callbacks=[Releases()])


def test_a_public_split_may_have_both() -> None:
    fit_evaluated(dplit.DPStrategy(public_splits=["validation"]), callbacks=[Releases()])
    assert isinstance(stated()["splits"]["validation"], float)
    assert not any("val/" in line for line in listed())
