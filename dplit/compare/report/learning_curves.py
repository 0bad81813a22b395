"""Learning curves of each group, a figure for each target."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dplit import plotting
from dplit.compare.analysis.intervals import interval
from dplit.compare.analysis.results import CHOICE_SPLIT, Results, rows
from dplit.compare.report.drawing import Picture, cells_at, group_handles
from dplit.compare.run.plan import VariantAtEpsilon, exact

ACROSS = 4
"""Panels side by side."""


def learning_curves(results: Results, epsilon: float) -> Picture:
    """Draw a validation figure by epoch at one target, a panel for each variant and one for the runs without privacy.

    The figure is what the models are judged by.
    """
    cells = [*cells_at(results, epsilon), *([results.reference] if results.reference else [])]
    deep = -(-len(cells) // ACROSS)
    figure, axes = plotting.blank(deep, ACROSS, 11, 0.9 + 2.1 * deep, sharey=True)
    panels = [one for row in axes for one in row]
    for one, cell in zip(panels, cells, strict=False):
        _panel(one, results, cell)
    for one in panels[len(cells) :]:
        one.set_visible(False)
    for row in axes:
        row[0].set_ylabel(results.quality.axis, fontsize=9)
    plotting.legend_below(figure, group_handles(results), results.groups)
    moves = "rises" if results.quality.share else "falls"
    caption = (
        f"Look for a group whose line {moves} later, or swings more, than it does without privacy in the last panel; lines are "
        f"means over seeds on the {CHOICE_SPLIT} split, bands their 95 % intervals."
    )
    return Picture(f"Learning curves at ε = {exact(epsilon)}", caption, plotting.as_data(figure))


def _panel(one: Axes, results: Results, cell: VariantAtEpsilon) -> None:
    curves = _curves(results, cell)
    for g, group in enumerate(results.groups):
        by_epoch = curves.get(group, {})
        found = {epoch: interval(values.values()).drawn for epoch, values in sorted(by_epoch.items())}
        means = [each.mean for each in found.values()]
        halves = [0.0 if each.half != each.half else each.half for each in found.values()]
        low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
        marker = "o" if len(found) == 1 else ""
        one.plot([epoch + 1 for epoch in found], means, color=plotting.of_group(g), linewidth=1.4, marker=marker)
        one.fill_between([epoch + 1 for epoch in found], low, high, color=plotting.of_group(g), alpha=0.18, linewidth=0)
    one.set_title(plotting.literal(cell[0]), fontsize=9)
    one.set_xlabel("epoch", fontsize=8)
    one.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _curves(results: Results, cell: VariantAtEpsilon) -> Mapping[str, Mapping[int, dict[int, float]]]:
    """Return what the models are judged by, by group, epoch and seed."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for run in results.of(cell):
        for row in rows(results.out / run.path):
            if row["metric"] == results.quality.name and row["split"] in (CHOICE_SPLIT, f"{CHOICE_SPLIT}/0"):
                found.setdefault(row["group"], {}).setdefault(int(row["epoch"]), {})[run.seed] = float(row["value"])
    return found
