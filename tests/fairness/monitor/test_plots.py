"""The picture: what its axes show, and that it is drawn although fit failed."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from lightning.pytorch import Callback

from dplit.fairness import plotting
from dplit.fairness.monitor.plots import DrawsAtEnd, draw
from dplit.fairness.monitor.snapshot import Snapshot
from tests.fairness.fairness_project import NAMES, Model, Paid, Project
from tests.fairness.monitor.test_display import snapshot
from tests.fairness.monitor.test_monitor import Private, fitted, read

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def inked(path):
    pixels = (matplotlib.image.imread(path) * 255).astype(np.uint8)
    return len(np.unique(pixels.view(np.uint32)))


def test_picture(trainer, tmp_path):
    fitted(trainer, Private(Paid(1.5, 1e-5, None)))
    assert inked(tmp_path / "fairness.png") > 50
    assert (tmp_path / "fairness.png").stat().st_size > 20_000


class Failing(Model):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            raise RuntimeError("out of luck")


def test_picture_although_fit_failed(trainer, tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        fitted(trainer, Failing())
    assert inked(tmp_path / "fairness.png") > 50
    assert set(read(tmp_path).epoch) == {0}


def test_axes_of_the_picture():
    looks = [snapshot(epsilon=float(i + 1), delta=1e-5) for i in range(2)]
    figure = draw([Snapshot(e, 10 * e, s.split, s.groups, s.rows, s.epsilon, s.delta) for e, s in enumerate(looks)])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["accuracy", "loss", "true positive rate", "difference between groups"]
    assert figure.axes[2].get_xlabel() == "epoch"
    assert [entry.get_text() for entry in figure.legends[0].get_texts()] == list(NAMES)
    assert draw(looks).axes[2].get_xlabel() == "step"  # two looks in one epoch
    (above,) = figure.axes[0].child_axes
    assert [tick.get_text() for tick in above.get_xticklabels()] == ["1", "2"]


def law_curves_hold_the_figures():
    """Each group's curve is its figures over the epochs, with a hole where one is not defined."""
    shots = [snapshot() for _ in range(3)]
    rows = [[row._replace(value=row.value + epoch) for row in shot.rows] for epoch, shot in enumerate(shots)]
    history = [Snapshot(epoch, epoch, "validation", NAMES, tuple(rows[epoch])) for epoch in range(3)]
    figure = draw(history)
    for axes, metric in zip(figure.axes, ("accuracy", "loss", "tpr"), strict=False):
        for line, group in zip(axes.get_lines(), NAMES, strict=True):
            assert line.get_xdata() == pytest.approx([0, 1, 2])
            assert list(line.get_ydata()) == pytest.approx([shot.value(metric, group) for shot in history], nan_ok=True)


def test_curves_hold_the_figures():
    law_curves_hold_the_figures()


def test_mutant_groups_swapped(monkeypatch):
    curve = plotting.curve
    monkeypatch.setattr(plotting, "curve", lambda axes, at, values, style: curve(axes, at, values[::-1], style))
    with pytest.raises(AssertionError):
        law_curves_hold_the_figures()


class Pen(DrawsAtEnd):
    def __init__(self):
        self.drawn = 0

    def draw(self):
        self.drawn += 1


class Stop(Callback):
    def on_validation_end(self, trainer, pl_module):
        raise KeyError("stopped")


def test_it_draws_once_when_fit_ends_or_fails_and_never_after_validation_alone(trainer):
    pen = Pen()
    trainer(pen, max_epochs=1).fit(Model(), datamodule=Project())
    assert pen.drawn == 1
    with pytest.raises(KeyError):
        trainer(pen, Stop(), num_sanity_val_steps=0).fit(Model(), datamodule=Project())
    assert pen.drawn == 2
    with pytest.raises(KeyError):
        trainer(pen, Stop()).validate(Model(), datamodule=Project(), verbose=False)
    assert pen.drawn == 2
