"""Figures by group: the bars have the heights of the means, and the words fit what models are judged by."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dplit.compare.analysis.results import Results
from dplit.compare.report import by_group
from dplit.compare.run.plan import Run
from dplit.fairness import plotting
from tests.compare.fabricated import comparison, fabricate, language


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, before they become SVG."""
    figures: list[Figure] = []
    monkeypatch.setattr(plotting, "as_data", lambda figure: figures.append(figure) or "data:")
    return figures


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    def uneven(run: Run, split: str, group: str) -> float:
        cost = 0.0 if run.epsilon is None else {"Female": 0.04, "Male": 0.01}[group] / run.epsilon
        return 0.8 - cost + 0.001 * run.seed

    return fabricate(tmp_path_factory.mktemp("out"), comparison(grid={}), uneven)


def heights(axes: Axes) -> list[float]:
    return [patch.get_height() + patch.get_y() for patch in axes.patches]


def law_bars_are_means(drawn: list[Figure], results: Results) -> None:
    by_group.quality_bars(results)
    for axes, epsilon in zip(drawn[-1].axes, (1.0, 3.0), strict=True):
        contenders = [("Flat", epsilon), ("Group", epsilon), ("not private", None)]
        means = [results.mean(at, "accuracy", group).mean for group in ("Female", "Male") for at in contenders]  # type: ignore[arg-type]
        assert heights(axes) == pytest.approx(means)
        assert axes.get_ylim()[0] <= min(means) - 0.02
        assert axes.get_ylim()[1] <= 1.0


def test_bars_are_means(drawn: list[Figure], results: Results) -> None:
    law_bars_are_means(drawn, results)


def test_bars_of_one_group_for_all_are_caught(
    drawn: list[Figure], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = by_group._draw_bars
    mixed = lambda panel, results, at, value: draw(panel, results, at, lambda entry, group: value(entry, "Male"))  # noqa: E731
    monkeypatch.setattr(by_group, "_draw_bars", mixed)
    with pytest.raises(AssertionError):
        law_bars_are_means(drawn, results)


def test_cost_bars_are_costs_with_their_gap(drawn: list[Figure], results: Results) -> None:
    picture = by_group.cost_bars(results)
    for axes, epsilon in zip(drawn[-1].axes, (1.0, 3.0), strict=True):
        assert heights(axes) == pytest.approx([0.04 / epsilon] * 2 + [0.01 / epsilon] * 2)
        diamonds = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "D"]
        assert diamonds == pytest.approx([0.03 / epsilon] * 2)
    assert "in percentage points" in picture.caption


def test_budgets_show_a_group_s_epsilon_only_where_it_is_stated(drawn: list[Figure], results: Results) -> None:
    by_group.group_budgets(results)
    left = drawn[-1].axes[0]
    marks = {(line.get_marker(), line.get_xdata()[0], round(line.get_ydata()[0])) for line in left.lines}
    assert marks == {("o", 1.0, 0), ("|", 1.0, 1)}  # Flat states ε for both groups, Group only overall


def test_bars_of_a_language_model_begin_at_0(drawn: list[Figure], tmp_path: Path) -> None:
    results = fabricate(tmp_path, comparison(epsilon=[1]), figures_of=language)
    picture = by_group.quality_bars(results)
    assert drawn[-1].axes[0].get_ylim()[0] == 0.0
    assert "starts at" not in picture.caption
    assert picture.title == "Perplexity of each group"
    assert not any(math.isnan(height) for height in heights(drawn[-1].axes[0]))
