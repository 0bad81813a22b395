"""The table on the terminal, and progress bars that it leaves whole."""

from __future__ import annotations

import io
import math

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.console import Console

from dplit.fairness import FairnessMonitor
from dplit.fairness.metrics.catalogue import table
from dplit.fairness.metrics.counts import Counts, count
from dplit.fairness.monitor.display import rendered, say, summary_line, written
from dplit.fairness.monitor.plots import draw
from dplit.fairness.monitor.snapshot import Snapshot
from tests.fairness.fairness_project import NAMES, Model, Project

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def snapshot(**options):
    group, ids = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1])
    rows = table(count(NAMES, 2, group, ids, torch.tensor([0, 1, 0]), torch.tensor([0.1, 0.2, 0.3])))
    return Snapshot(3, 120, "validation", NAMES, tuple(rows), **options)


def text(message, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(message)
    return console.file.getvalue()


def test_table_says_everything():
    said = text(rendered(snapshot(epsilon=2.5, delta=1e-5, epsilon_by_group={"Female": 2.5, "Male": 1.25}), "exact"))
    assert "epoch 3, step 120, validation (exact)" in said
    male = next(line.split() for line in said.splitlines() if "Male" in line)
    assert male == ["Male", "2", "0.500", "0.500", "0.500", "–", "0.250", "1.25"]
    assert next(line.split() for line in said.splitlines() if "Other" in line)[1:] == ["0"] + ["–"] * 6
    assert "ε ≤ 2.50 at δ = 1e-05" in said
    assert "worst group Male (0.500)" in said


def test_not_private_and_not_defined():
    assert summary_line(snapshot()).startswith("not private · accuracy 0.667")
    nothing = Snapshot(0, 0, "validation", NAMES, tuple(table(Counts.none(NAMES))))
    assert "worst group – (–) · accuracy gap –" in summary_line(nothing)
    assert written(math.nan) == "–"


def test_names_are_not_markup():
    names = ("[red]a[/red]", "$b$")
    odd = Snapshot(0, 0, "validation", names, tuple(table(Counts.none(names))))
    assert "[red]a[/red]" in text(rendered(odd, "exact"))
    draw([odd]).canvas.draw()


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar, None])
def test_prints_beside_progress_bars(trainer, capsys, bar):
    bars = [bar()] if bar else []
    run = trainer(FairnessMonitor(), *bars, enable_progress_bar=bool(bars))
    run.fit(Model(), datamodule=Project())
    run.test(run.model, datamodule=Project(), verbose=False)
    out = capsys.readouterr().out
    for heading in ("epoch 0, step 2, validation (exact, not charged)", "epoch 1, step 4", "epoch 2, step 4, test"):
        assert out.count(heading) == 1
    assert out.count("not private") == 3


def test_prints_although_the_bar_is_switched_off(trainer, capsys):
    trainer(FairnessMonitor(), TQDMProgressBar(refresh_rate=0), enable_progress_bar=True).fit(
        Model(), datamodule=Project()
    )
    assert capsys.readouterr().out.count("not private") == 2


def test_say_needs_no_bar(trainer, capsys):
    say(trainer(), rendered(snapshot(), "exact"))
    assert "Female" in capsys.readouterr().out
