"""Figures by group: accuracy (or perplexity, or loss), privacy cost, and ε beside accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from dplit.compare.analysis.intervals import Interval
from dplit.compare.analysis.results import Results
from dplit.compare.report.drawing import Look, Picture, contenders_at, draw_mark, epsilons_of, group_handles
from dplit.compare.run.plan import VariantAtEpsilon, exact
from dplit.fairness import plotting


def quality_bars(results: Results) -> Picture:
    """Draw the figure that models are judged by as bars, one for each group, a panel for each ε."""
    figure, panels = _bar_panels(results, sharey=True)
    quality = results.quality
    floor = _floor(results)
    for panel, epsilon in zip(panels, epsilons_of(results), strict=True):
        contenders = contenders_at(results, epsilon, with_reference=True)
        _draw_bars(panel, results, contenders, lambda contender, group: results.mean(contender, quality.name, group))
        panel.set_ylim(floor, min(1.0, panel.get_ylim()[1]) if quality.share else None)
        panel.set_ylabel(f"ε = {exact(epsilon)}\n{quality.axis}", fontsize=9)
    plotting.legend_below(figure, group_handles(results), results.groups)
    how = "fall short of" if quality.share else "stand above"
    start = f"note that the axis starts at {floor:g}, not at 0, and " if quality.share else ""
    caption = (
        f"Look for bars of one group that {how} the same group's bar without privacy, at the right; "
        f"{start}bars end in 95 % intervals."
    )
    return Picture(f"{quality.name.capitalize()} of each group", caption, plotting.as_data(figure))


def _floor(results: Results) -> float:
    """Return where the bars begin: for shares a little below the lowest, so that differences can be seen; else 0."""
    if not results.quality.share:
        return 0.0
    lowest = [
        interval.mean - (0 if math.isnan(interval.half) else interval.half)
        for contender in results.contenders
        for group in results.groups
        for interval in [results.mean(contender, "accuracy", group)]
        if not math.isnan(interval.mean)
    ]
    return max(math.floor(20 * (min(lowest, default=0.0) - 0.02)) / 20, 0.0)


def cost_bars(results: Results) -> Picture:
    """Draw the privacy cost of each group as bars, and the gap between them as a diamond, a panel for each ε."""
    figure, panels = _bar_panels(results, sharey=False)
    diamond: Look = {"color": "black", "marker": "D", "mfc": "white", "mec": "black"}
    for panel, epsilon in zip(panels, epsilons_of(results), strict=True):
        contenders = contenders_at(results, epsilon)
        _draw_bars(panel, results, contenders, results.cost)
        for k, contender in enumerate(contenders):
            draw_mark(panel, k + 0.46, results.cost_gap(contender), diamond)
        panel.axhline(0, color=plotting.GREY, linewidth=0.8)
        if results.quality.share:
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
        panel.set_ylabel(f"ε = {exact(epsilon)}\n{results.quality.cost}", fontsize=9)
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
    """Draw ε of each group beside the figure that models are judged by, a row of two panels for each target."""
    epsilons, name = epsilons_of(results), results.quality.name
    most = max(len(contenders_at(results, epsilon)) for epsilon in epsilons)
    height = 1.0 + len(epsilons) * (0.9 + max(0.27, 0.1 * len(results.groups)) * most)
    figure, axes = plotting.blank(len(epsilons), 2, 11, height, sharey="row")
    for (left, right), epsilon in zip(axes, epsilons, strict=True):
        contenders = contenders_at(results, epsilon)
        for k, contender in enumerate(contenders):
            _draw_budget_row(left, right, results, contender, k)
        left.set_yticks(range(len(contenders)), [plotting.literal(contender.variant) for contender in contenders])
        left.set_ylim(len(contenders) - 0.5, -0.5)
        left.set_xlim(0, 1.05 * max(epsilon, left.get_xlim()[1] / 1.05))
        left.set_xlabel(f"ε of the group, at a target of {exact(epsilon)}", fontsize=9)
        right.set_xlabel(results.quality.axis.replace(name, f"{name} of the group"), fontsize=9)
    overall = Line2D([], [], color=plotting.GREY, marker="|", markersize=10, linestyle="", mew=2)
    plotting.legend_below(figure, [*group_handles(results), overall], [*results.groups, "only the overall ε holds"])
    sides = (
        "further right on both sides" if results.quality.share else "far right on the left and far left on the right"
    )
    caption = (
        f"Look for groups whose mark is {sides}: their {name} is paid for with weaker privacy; "
        "a grey stroke means that the policy states no ε for single groups."
    )
    return Picture(f"ε of each group beside its {name}", caption, plotting.as_data(figure))


def _draw_budget_row(left: Axes, right: Axes, results: Results, contender: VariantAtEpsilon, k: int) -> None:
    spent, step = results.spent_by_group(contender), 0.5 / max(len(results.groups), 1)
    if spent is None:
        left.plot([results.spent(contender)], [k], color=plotting.GREY, marker="|", markersize=10, mew=2)
    for g, group in enumerate(results.groups):
        y = k + step * (g + 0.5) - 0.25
        colour = plotting.of_group(g)
        look: Look = {"color": colour, "marker": "o", "mfc": colour, "mec": "white"}
        if spent is not None:
            left.plot([spent[group]], [y], markersize=6, linestyle="", **look)
        quality = results.mean(contender, results.quality.name, group).drawn
        half = None if math.isnan(quality.half) else quality.half
        right.errorbar([quality.mean], [y], xerr=half, markersize=6, linestyle="", elinewidth=1, **look)


def _bar_panels(results: Results, sharey: bool) -> tuple[Figure, list[Axes]]:
    epsilons = epsilons_of(results)
    figure, axes = plotting.blank(len(epsilons), 1, 11, 1.4 + 2.3 * len(epsilons), sharex=True, sharey=sharey)
    return figure, [row[0] for row in axes]


def _draw_bars(
    panel: Axes,
    results: Results,
    contenders: Sequence[VariantAtEpsilon],
    value: Callable[[VariantAtEpsilon, str], Interval],
) -> None:
    """Draw a bar for each contender and group, with its interval."""
    width = 0.76 / max(len(results.groups), 1)
    for g, group in enumerate(results.groups):
        values = [value(contender, group).drawn for contender in contenders]
        x = [k - 0.38 + width * (g + 0.5) for k in range(len(contenders))]
        means, halves = [bar.mean for bar in values], [bar.half for bar in values]
        panel.bar(x, means, 0.94 * width, color=plotting.of_group(g))
        panel.errorbar(x, means, halves, linestyle="", color="black", elinewidth=0.9, capsize=1.5)
    names = [plotting.literal(contender.variant) for contender in contenders]
    panel.set_xticks(range(len(contenders)), names, rotation=25, ha="right", fontsize=8)
    panel.grid(axis="x", visible=False)
