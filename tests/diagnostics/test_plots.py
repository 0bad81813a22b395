"""The picture of what clipping did to each group."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dplit.diagnostics import plots
from dplit.diagnostics.plots import PANELS, SPANS, draw
from dplit.fairness import plotting
from dplit.fairness.metrics.metric import Row
from dplit.fairness.monitor.snapshot import Snapshot
from dplit.fairness.plotting import save


def test_a_picture_of_what_is_not_defined() -> None:
    names = ["n", "norm_q1", "norm_median", "norm_q3", "clipped", "contribution", "direction_error", "steering_cosine"]
    nothing = tuple(Row(metric, "$a", math.nan) for metric in [*names, "accuracy"])
    look = Snapshot(0, 1, "train", ("$a",), nothing)
    figure = draw([look], [look])
    save(figure, Path("empty.png"))
    assert len(figure.axes) == 6
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["not defined"] * 6


METRICS = (*PANELS, "norm_q1", "norm_q3")


def history() -> tuple[list[Snapshot], list[Snapshot]]:
    """Three epochs of two groups; no two figures are alike."""
    values = {(metric, group): 0.1 * k + 0.05 * (group == "b") for k, metric in enumerate(METRICS, 1) for group in "ab"}
    gradients, gaps = [], []
    for epoch in range(3):
        rows = tuple(Row(metric, group, value + 0.01 * epoch) for (metric, group), value in values.items())
        gradients.append(Snapshot(epoch, epoch, "train", ("a", "b"), rows))
        gap = tuple(Row("accuracy", group, 0.01 * epoch + (group == "b")) for group in "ab")
        gaps.append(Snapshot(epoch, epoch, "train minus validation", ("a", "b"), gap))
    return gradients, gaps


def law_each_panel_has_its_figures() -> None:
    gradients, gaps = history()
    axes = draw(gradients, gaps).axes
    for panel, (metric, title) in zip(axes, PANELS.items(), strict=False):
        assert panel.get_ylabel() == title
        for line, group in zip(panel.get_lines(), "ab", strict=False):
            assert list(line.get_ydata()) == [shot.value(metric, group) for shot in gradients]
        assert metric not in SPANS or panel.get_ylim() == SPANS[metric]
    assert axes[5].get_ylabel() == "accuracy, train minus validation"
    assert list(axes[5].get_lines()[1].get_ydata()) == [shot.value("accuracy", "b") for shot in gaps]
    assert axes[0].get_yscale() == "log"


def test_each_panel_has_its_figures() -> None:
    law_each_panel_has_its_figures()


def test_mutant_curves_of_another_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(axes, history, positions, metric, label):
        draw_groups(axes, history, positions, "clipped", label)

    draw_groups = plots.draw_groups
    monkeypatch.setattr(plots, "draw_groups", other)
    with pytest.raises(AssertionError):
        law_each_panel_has_its_figures()


def test_groups_have_the_colours_of_every_other_picture() -> None:
    lines = draw(*history()).axes[1].get_lines()
    assert [line.get_color() for line in lines] == [plotting.of_group(0), plotting.of_group(1)]
