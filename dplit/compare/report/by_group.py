"""Figures with a place for each group: accuracy (or perplexity, or loss), privacy cost, and ε beside accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from dplit import plotting
from dplit.compare.analysis.intervals import Interval
from dplit.compare.analysis.results import Results
from dplit.compare.report.drawing import Picture, cells_at, epsilons_of, group_handles, mark
from dplit.compare.run.plan import VariantAtEpsilon, exact


def quality_bars(results: Results) -> Picture:
    """Draw what each group's model is judged by as bars, a panel for each ε."""
    figure, axes = _bar_panels(results, sharey=True)
    quality = results.quality
    floor = _floor(results)
    for one, epsilon in zip(axes, epsilons_of(results), strict=True):
        cells = [*cells_at(results, epsilon), *([results.reference] if results.reference else [])]
        _group_bars(one, results, cells, lambda cell, group: results.mean(cell, quality.name, group))
        one.set_ylim(floor, min(1.0, one.get_ylim()[1]) if quality.share else None)
        one.set_ylabel(f"ε = {exact(epsilon)}\n{quality.axis}", fontsize=9)
    plotting.legend_below(figure, group_handles(results), results.groups)
    how = "fall short of" if quality.share else "stand above"
    start = f"note that the axis starts at {floor:g}, not at 0, and " if quality.share else ""
    caption = (
        f"Look for bars of one group that {how} the same group's bar without privacy, at the right; "
        f"{start}bars end in 95 % intervals."
    )
    return Picture(f"{quality.name.capitalize()} of each group", caption, plotting.as_data(figure))


def _floor(results: Results) -> float:
    """Return where the bars begin: shares a little under the lowest, so that they can be told apart, all else at 0."""
    if not results.quality.share:
        return 0.0
    lowest = [
        interval.mean - (0 if math.isnan(interval.half) else interval.half)
        for cell in results.cells
        for group in results.groups
        for interval in [results.mean(cell, "accuracy", group)]
        if not math.isnan(interval.mean)
    ]
    return max(math.floor(20 * (min(lowest, default=0.0) - 0.02)) / 20, 0.0)


def cost_bars(results: Results) -> Picture:
    """Draw each group's privacy cost as bars with its gap, a panel for each ε."""
    figure, axes = _bar_panels(results, sharey=False)
    for one, epsilon in zip(axes, epsilons_of(results), strict=True):
        cells = cells_at(results, epsilon)
        _group_bars(one, results, cells, results.cost)
        for k, cell in enumerate(cells):
            look: dict[str, Any] = {"color": "black", "marker": "D", "mfc": "white", "mec": "black"}
            mark(one, k + 0.46, results.cost_gap(cell), look)
        one.axhline(0, color=plotting.GREY, linewidth=0.8)
        if results.quality.share:
            one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
        one.set_ylabel(f"ε = {exact(epsilon)}\n{results.quality.cost}", fontsize=9)
    gap = Line2D([], [], color="black", marker="D", mfc="white", linestyle="")
    plotting.legend_below(figure, [*group_handles(results), gap], [*results.groups, "gap: largest minus smallest"])
    name = results.quality.name
    cost = (
        f"{name} without privacy minus {name} with it, of the same seed, in percentage points,"
        if results.quality.share
        else f"{name} with privacy minus {name} without it, of the same seed,"
    )
    caption = (
        "Look for variants whose bars are both low and of equal height, so that the diamond, the gap between the groups' "
        f"costs, is near 0; the cost is {cost} and each panel has a scale of its own."
    )
    return Picture("Privacy cost of each group", caption, plotting.as_data(figure))


def group_budgets(results: Results) -> Picture:
    """Draw each group's ε beside what its model is judged by, a row of two panels for each target."""
    epsilons, name = epsilons_of(results), results.quality.name
    most = max(len(cells_at(results, epsilon)) for epsilon in epsilons)
    height = 1.0 + len(epsilons) * (0.9 + max(0.27, 0.1 * len(results.groups)) * most)
    figure, axes = plotting.blank(len(epsilons), 2, 11, height, sharey="row")
    for (left, right), epsilon in zip(axes, epsilons, strict=True):
        cells = cells_at(results, epsilon)
        for k, cell in enumerate(cells):
            _budget_row(left, right, results, cell, k)
        left.set_yticks(range(len(cells)), [plotting.literal(name) for name, _ in cells])
        left.set_ylim(len(cells) - 0.5, -0.5)
        left.set_xlim(0, 1.05 * max(epsilon, left.get_xlim()[1] / 1.05))
        left.set_xlabel(f"ε of the group, at a target of {exact(epsilon)}", fontsize=9)
        right.set_xlabel(results.quality.axis.replace(name, f"{name} of the group"), fontsize=9)
    headline = Line2D([], [], color=plotting.GREY, marker="|", markersize=10, linestyle="", mew=2)
    plotting.legend_below(figure, [*group_handles(results), headline], [*results.groups, "only the headline holds"])
    sides = (
        "further right on both sides" if results.quality.share else "far right on the left and far left on the right"
    )
    caption = (
        f"Look for groups whose mark is {sides}: their {name} is paid for with weaker privacy; "
        "a grey stroke means that the policy states no ε for single groups."
    )
    return Picture(f"ε of each group beside its {name}", caption, plotting.as_data(figure))


def _budget_row(left: Axes, right: Axes, results: Results, cell: VariantAtEpsilon, k: int) -> None:
    spent, step = results.spent_by_group(cell), 0.5 / max(len(results.groups), 1)
    if spent is None:
        left.plot([results.spent(cell)], [k], color=plotting.GREY, marker="|", markersize=10, mew=2)
    for g, group in enumerate(results.groups):
        y = k + step * (g + 0.5) - 0.25
        look: dict[str, Any] = {"color": plotting.of_group(g), "marker": "o", "mec": "white"}
        if spent is not None:
            left.plot([spent[group]], [y], markersize=6, linestyle="", **look)
        found = results.mean(cell, results.quality.name, group).drawn
        half = None if math.isnan(found.half) else found.half
        right.errorbar([found.mean], [y], xerr=half, markersize=6, linestyle="", elinewidth=1, **look)


def _bar_panels(results: Results, sharey: bool) -> tuple[Figure, list[Axes]]:
    epsilons = epsilons_of(results)
    figure, axes = plotting.blank(len(epsilons), 1, 11, 1.4 + 2.3 * len(epsilons), sharex=True, sharey=sharey)
    return figure, [row[0] for row in axes]


def _group_bars(
    one: Axes, results: Results, cells: Sequence[VariantAtEpsilon], value: Callable[[VariantAtEpsilon, str], Interval]
) -> None:
    width = 0.76 / max(len(results.groups), 1)
    for g, group in enumerate(results.groups):
        found = [value(cell, group).drawn for cell in cells]
        x = [k - 0.38 + width * (g + 0.5) for k in range(len(cells))]
        halves = [each.half for each in found]
        one.bar(x, [each.mean for each in found], 0.94 * width, color=plotting.of_group(g))
        one.errorbar(x, [each.mean for each in found], halves, linestyle="", color="black", elinewidth=0.9, capsize=1.5)
    one.set_xticks(
        range(len(cells)), [plotting.literal(name) for name, _ in cells], rotation=25, ha="right", fontsize=8
    )
    one.grid(axis="x", visible=False)
