"""Learning curves of each group, one figure for each target."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dplit.compare.analysis.intervals import interval
from dplit.compare.analysis.results import CHOICE_SPLIT, Results, rows
from dplit.compare.report.drawing import Picture, contenders_at, group_handles
from dplit.compare.run.plan import VariantAtEpsilon, exact
from dplit.fairness import plotting

COLUMNS = 4
"""Panels side by side."""


def learning_curves(results: Results, epsilon: float) -> Picture:
    """Draw the validation figure that models are judged by against epochs, one panel for each variant at one target.

    The last panel shows the runs without privacy.
    """
    contenders = contenders_at(results, epsilon, with_reference=True)
    rows_of_panels = -(-len(contenders) // COLUMNS)
    figure, axes = plotting.blank(rows_of_panels, COLUMNS, 11, 0.9 + 2.1 * rows_of_panels, sharey=True)
    panels = [panel for row in axes for panel in row]
    for panel, contender in zip(panels, contenders, strict=False):
        _draw_panel(panel, results, contender)
    for unused in panels[len(contenders) :]:
        unused.set_visible(False)
    for row in axes:
        row[0].set_ylabel(results.quality.axis, fontsize=9)
    plotting.legend_below(figure, group_handles(results), results.groups)
    moves = "rises" if results.quality.share else "falls"
    caption = (
        f"Look for a group whose line {moves} later, or swings more, than it does without privacy in the last panel; lines are "
        f"means over seeds on the {CHOICE_SPLIT} split, bands their 95 % intervals."
    )
    return Picture(f"Learning curves at ε = {exact(epsilon)}", caption, plotting.as_data(figure))


def _draw_panel(panel: Axes, results: Results, contender: VariantAtEpsilon) -> None:
    curves = _curves(results, contender)
    for k, group in enumerate(results.groups):
        by_epoch = sorted(curves.get(group, {}).items())
        intervals = [interval(by_seed.values()).drawn for _, by_seed in by_epoch]
        epochs = [epoch + 1 for epoch, _ in by_epoch]
        means = [at_epoch.mean for at_epoch in intervals]
        halves = [0.0 if math.isnan(at_epoch.half) else at_epoch.half for at_epoch in intervals]
        low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
        marker = "o" if len(epochs) == 1 else ""
        panel.plot(epochs, means, color=plotting.of_group(k), linewidth=1.4, marker=marker)
        panel.fill_between(epochs, low, high, color=plotting.of_group(k), alpha=0.18, linewidth=0)
    panel.set_title(plotting.literal(contender.variant), fontsize=9)
    panel.set_xlabel("epoch", fontsize=8)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _curves(results: Results, contender: VariantAtEpsilon) -> Mapping[str, Mapping[int, dict[int, float]]]:
    """Return the figure that the models are judged by, by group, epoch and seed."""
    curves: dict[str, dict[int, dict[int, float]]] = {}
    for run in results.of(contender):
        for row in rows(results.out / run.path):
            if row["metric"] == results.quality.name and row["split"] in (CHOICE_SPLIT, f"{CHOICE_SPLIT}/0"):
                curves.setdefault(row["group"], {}).setdefault(int(row["epoch"]), {})[run.seed] = float(row["value"])
    return curves
