"""The figures of the report, each with a sentence that says what to look for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from dplit.compare import style
from dplit.compare.intervals import Interval
from dplit.compare.plan import Cell, exact
from dplit.compare.results import Results

DISPARITIES = {
    "accuracy_gap": "accuracy gap",
    "demographic_parity_difference": "demographic parity difference",
    "equalized_odds_difference": "equalized odds difference",
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure: SVG in a `data:` address, and one sentence on what to look for."""

    title: str
    caption: str
    data: str


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which (disparity, accuracy) points no other one beats, by rising disparity.

    A point is beaten by one with no more disparity and no less accuracy that is better in one of them.
    """

    def beaten(one: tuple[float, float]) -> bool:
        return any(o != one and o[0] <= one[0] and o[1] >= one[1] for o in points)

    kept = [k for k, one in enumerate(points) if not any(map(math.isnan, one)) and not beaten(one)]
    return sorted(kept, key=lambda k: points[k])


def pareto(results: Results) -> Picture:
    """Draw accuracy against each disparity, a row of panels for each ε, with the Pareto front marked."""
    epsilons = _epsilons(results)
    figure, axes = style.blank(len(epsilons), len(DISPARITIES), 11, 1.2 + 2.7 * len(epsilons), sharey=True, sharex="col")
    for row, epsilon in zip(axes, epsilons, strict=True):
        for one, metric in zip(row, DISPARITIES, strict=True):
            _pareto_panel(one, results, epsilon, metric)
        row[0].set_ylabel(f"ε = {exact(epsilon)}\naccuracy (share)", fontsize=9)
    for one, title in zip(axes[-1], DISPARITIES.values(), strict=True):
        one.set_xlabel(f"{title} (difference of shares)", fontsize=9)
    handles = [*_variant_handles(results), Line2D([], [], color=style.GREY, linestyle="--", label="Pareto front")]
    style.legend_below(figure, handles, [str(h.get_label()) for h in handles])
    caption = (
        "Look for marks high and to the left: on the dashed front no other variant has both more accuracy and less "
        "disparity; marks whose 95 % bars overlap are not told apart by these seeds."
    )
    return Picture("Accuracy against disparity", caption, style.as_data(figure))


def _pareto_panel(one: Axes, results: Results, epsilon: float, metric: str) -> None:
    cells = [cell for cell in results.cells if cell[1] == epsilon]
    points = []
    for cell in [*cells, *([results.reference] if results.reference else [])]:
        x, y = results.mean(cell, metric), results.mean(cell, "overall_accuracy")
        _mark(one, x.mean, y, _variant_style(results, cell), x.half)
        points.append((x.mean, y.mean))
    points = points[: len(cells)]
    best = [points[k] for k in front(points)]
    if best:
        one.plot(*zip(*best, strict=True), color=style.GREY, linestyle="--", linewidth=1, zorder=1)


def accuracy_bars(results: Results) -> Picture:
    """Draw each group's accuracy as bars, a panel for each ε."""
    figure, axes = _bar_panels(results, with_reference=True)
    lowest = [
        interval.mean - (0 if math.isnan(interval.half) else interval.half)
        for cell in results.cells
        for group in results.groups
        for interval in [results.mean(cell, "accuracy", group)]
        if not math.isnan(interval.mean)
    ]
    floor = max(math.floor(20 * (min(lowest, default=0.0) - 0.02)) / 20, 0.0)
    for one, epsilon in zip(axes, _epsilons(results), strict=True):
        cells = [*_cells(results, epsilon), *([results.reference] if results.reference else [])]
        _group_bars(one, results, cells, lambda cell, group: results.mean(cell, "accuracy", group))
        one.set_ylim(floor, min(1.0, one.get_ylim()[1]))
        one.set_ylabel(f"ε = {exact(epsilon)}\naccuracy (share)", fontsize=9)
    style.legend_below(figure, _group_handles(results), results.groups)
    caption = (
        "Look for bars of one group that fall short of the same group's bar without privacy, at the right; note that "
        f"the axis starts at {floor:g}, not at 0, and bars end in 95 % intervals."
    )
    return Picture("Accuracy of each group", caption, style.as_data(figure))


def cost_bars(results: Results) -> Picture:
    """Draw each group's privacy cost as bars with its gap, a panel for each ε."""
    figure, axes = _bar_panels(results, with_reference=False)
    for one, epsilon in zip(axes, _epsilons(results), strict=True):
        cells = _cells(results, epsilon)
        _group_bars(one, results, cells, results.cost)
        for k, cell in enumerate(cells):
            look = {"color": "black", "marker": "D", "mfc": "white", "mec": "black"}
            _mark(one, k + 0.46, results.cost_gap(cell), look)
        one.axhline(0, color=style.GREY, linewidth=0.8)
        one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
        one.set_ylabel(f"ε = {exact(epsilon)}\ncost (points)", fontsize=9)
    gap = Line2D([], [], color="black", marker="D", mfc="white", linestyle="")
    style.legend_below(figure, [*_group_handles(results), gap], [*results.groups, "gap: largest minus smallest"])
    caption = (
        "Look for variants whose bars are both low and of equal height, so that the diamond, the gap between the groups' "
        "costs, is near 0; the cost is accuracy without privacy minus accuracy with it, of the same seed, in percentage points."
    )
    return Picture("Privacy cost of each group", caption, style.as_data(figure))


def disparity_by_epsilon(results: Results) -> Picture:
    """Draw each disparity against ε, a line for each variant."""
    epsilons = _epsilons(results)
    figure, axes = style.blank(1, len(DISPARITIES), 11, 4.6)
    variants = [one.name for one in results.comparison.variants]
    for one, (metric, title) in zip(axes[0], DISPARITIES.items(), strict=True):
        for k, name in enumerate(variants):
            _line_over_epsilon(one, results, [(name, e) for e in epsilons], metric, 0.5 * (k + 0.5) / len(variants) - 0.25)
        if results.reference:
            one.axhline(results.mean(results.reference, metric).mean, color=style.GREY, linestyle=":", linewidth=1.2)
        one.set_xticks(range(len(epsilons)), [exact(e) for e in epsilons])
        one.set_xlim(-0.5, len(epsilons) - 0.5)
        one.set_xlabel("ε (each target a place of its own)", fontsize=9)
        one.set_ylabel(f"{title} (difference of shares)", fontsize=9)
    handles = _variant_handles(results, reference_line=True)
    style.legend_below(figure, handles, [str(h.get_label()) for h in handles])
    caption = (
        "Look for lines that stay near the dotted level without privacy as ε falls to the left; a line that drops "
        "below it at small ε may only mean a model that predicts one class for everybody."
    )
    return Picture("Disparity against ε", caption, style.as_data(figure))


def _line_over_epsilon(one: Axes, results: Results, cells: Sequence[Cell], metric: str, shift: float) -> None:
    look = _variant_style(results, cells[0])
    found = [(k + shift, results.mean(cell, metric)) for k, cell in enumerate(cells) if cell in results.cells]
    one.plot([x for x, _ in found], [y.mean for _, y in found], color=look["color"], linewidth=0.9, alpha=0.6)
    for x, y in found:
        _mark(one, x, y, look)


def group_budgets(results: Results) -> Picture:
    """Draw each group's ε beside its accuracy, a row of two panels for each target."""
    epsilons = _epsilons(results)
    most = max(len(_cells(results, epsilon)) for epsilon in epsilons)
    height = 1.0 + len(epsilons) * (0.9 + 0.27 * most)
    figure, axes = style.blank(len(epsilons), 2, 11, height, sharey="row")
    for (left, right), epsilon in zip(axes, epsilons, strict=True):
        cells = _cells(results, epsilon)
        for k, cell in enumerate(cells):
            _budget_row(left, right, results, cell, k)
        left.set_yticks(range(len(cells)), [style.literal(name) for name, _ in cells])
        left.set_ylim(len(cells) - 0.5, -0.5)
        left.set_xlim(left=0)
        left.set_xlabel(f"ε of the group, at a target of {exact(epsilon)}", fontsize=9)
        right.set_xlabel("accuracy of the group (share)", fontsize=9)
    headline = Line2D([], [], color=style.GREY, marker="|", markersize=10, linestyle="", mew=2)
    style.legend_below(figure, [*_group_handles(results), headline], [*results.groups, "only the headline holds"])
    caption = (
        "Look for groups whose mark is further right on both sides: their accuracy is paid for with weaker privacy; "
        "a grey stroke means that the policy states no ε for single groups."
    )
    return Picture("ε of each group beside its accuracy", caption, style.as_data(figure))


def _budget_row(left: Axes, right: Axes, results: Results, cell: Cell, k: int) -> None:
    spent, step = results.spent_by_group(cell), 0.5 / max(len(results.groups), 1)
    if spent is None:
        left.plot([results.spent(cell)], [k], color=style.GREY, marker="|", markersize=10, mew=2)
    for g, group in enumerate(results.groups):
        y, look = k + step * (g + 0.5) - 0.25, {"color": style.of_group(g), "marker": "o", "mec": "white"}
        if spent is not None:
            left.plot([spent[group]], [y], markersize=6, linestyle="", **look)
        accuracy = results.mean(cell, "accuracy", group)
        half = None if math.isnan(accuracy.half) else accuracy.half
        right.errorbar([accuracy.mean], [y], xerr=half, markersize=6, linestyle="", elinewidth=1, **look)


# ---- parts ------------------------------------------------------------------------------------------------------


def _epsilons(results: Results) -> list[float]:
    return [e for e in results.comparison.epsilons if any(cell[1] == e for cell in results.cells)]


def _cells(results: Results, epsilon: float) -> list[Cell]:
    return [cell for cell in results.cells if cell[1] == epsilon]


def _variant_style(results: Results, cell: Cell) -> dict[str, object]:
    if cell[1] is None:
        return {"color": style.GREY, "marker": "*", "mfc": style.GREY, "mec": style.GREY}
    return style.of_variant([one.name for one in results.comparison.variants].index(cell[0]))


def _variant_handles(results: Results, reference_line: bool = False) -> list[Line2D]:
    shown = dict.fromkeys(name for name, epsilon in results.cells if epsilon is not None)
    handles = [Line2D([], [], linestyle="", label=n, **_variant_style(results, (n, 1.0))) for n in shown]  # type: ignore[arg-type]
    if results.reference:
        look = {"linestyle": ":", "color": style.GREY} if reference_line else {**_variant_style(results, results.reference), "linestyle": ""}
        handles.append(Line2D([], [], label=results.reference[0], **look))  # type: ignore[arg-type]
    return handles


def _group_handles(results: Results) -> list[Patch]:
    return [Patch(color=style.of_group(g)) for g in range(len(results.groups))]


def _mark(one: Axes, x: float, y: Interval, look: dict[str, object], x_half: float = math.nan) -> None:
    bars = {"yerr": None if math.isnan(y.half) else y.half, "xerr": None if math.isnan(x_half) else x_half}
    one.errorbar([x], [y.mean], markersize=6, linestyle="", elinewidth=0.9, **bars, **look)  # type: ignore[arg-type]


def _bar_panels(results: Results, with_reference: bool) -> tuple[style.Figure, list[Axes]]:
    epsilons = _epsilons(results)
    figure, axes = style.blank(len(epsilons), 1, 11, 1.4 + 2.3 * len(epsilons), sharex=True, sharey=True)
    return figure, [row[0] for row in axes]


def _group_bars(
    one: Axes, results: Results, cells: Sequence[Cell], value: Callable[[Cell, str], Interval]
) -> None:
    width = 0.76 / max(len(results.groups), 1)
    for g, group in enumerate(results.groups):
        found = [value(cell, group) for cell in cells]
        x = [k - 0.38 + width * (g + 0.5) for k in range(len(cells))]
        halves = [0.0 if math.isnan(each.half) else each.half for each in found]
        one.bar(x, [each.mean for each in found], 0.94 * width, color=style.of_group(g))
        one.errorbar(x, [each.mean for each in found], halves, linestyle="", color="black", elinewidth=0.9, capsize=1.5)
    one.set_xticks(range(len(cells)), [style.literal(name) for name, _ in cells], rotation=25, ha="right", fontsize=8)
    one.grid(axis="x", visible=False)
