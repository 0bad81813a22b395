"""Learning curves: a line for each group through its means by epoch, a panel for each contender."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dplit.compare.report.learning_curves import learning_curves
from dplit.fairness import plotting
from tests.compare.fabricated import comparison, fabricate


def law_lines_are_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabricated validation figures rise by 0.1 from the first to the second epoch; test figures are left out."""
    drawn: list[Figure] = []
    monkeypatch.setattr(plotting, "as_data", lambda figure: drawn.append(figure) or "data:")
    results = fabricate(tmp_path, comparison(grid={}))
    learning_curves(results, 3.0)
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["Flat", "Group", "not private"]
    for axes, without in zip(panels, (0.0, 0.0, 0.1), strict=True):
        for line, better in zip(axes.lines, (0.02, 0.0), strict=True):
            assert list(line.get_xdata()) == [1, 2]
            assert list(line.get_ydata()) == pytest.approx([0.601 + better + without, 0.701 + better + without])


def test_lines_are_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    law_lines_are_means(tmp_path, monkeypatch)


def test_curves_of_another_split_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dplit.compare.report.learning_curves.CHOICE_SPLIT", "test")
    with pytest.raises(AssertionError):
        law_lines_are_means(tmp_path, monkeypatch)
