"""Figures with a mark for each variant: accuracy, or perplexity, against disparity, and disparity against ε."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dplit import plotting
from dplit.compare.analysis.results import Results
from dplit.compare.report.drawing import Picture, epsilons_of, look_of, mark, variant_handles
from dplit.compare.run.plan import VariantAtEpsilon, exact

FRONT: dict[str, Any] = {"color": plotting.GREY, "marker": "o", "markersize": 13, "mfc": "none", "mec": plotting.GREY}
"""A ring around what no other variant beats."""


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which (disparity, accuracy) points no other one beats, by rising disparity.

    A point is beaten by one with no more disparity and no less accuracy that is better in one of them.
    """

    def beaten(one: tuple[float, float]) -> bool:
        return any(o != one and o[0] <= one[0] and o[1] >= one[1] for o in points)

    kept = [k for k, one in enumerate(points) if not any(map(math.isnan, one)) and not beaten(one)]
    return sorted(kept, key=lambda k: points[k])


def pareto(results: Results) -> Picture:
    """Draw what models are judged by against each disparity, a row of panels for each ε, the Pareto front marked."""
    epsilons, quality = epsilons_of(results), results.quality
    figure, axes = plotting.blank(len(epsilons), len(quality.disparities), 11, 1.2 + 2.7 * len(epsilons))
    for row, epsilon in zip(axes, epsilons, strict=True):
        for one, metric in zip(row, quality.disparities, strict=True):
            _pareto_panel(one, results, epsilon, metric)
        row[0].set_ylabel(f"ε = {exact(epsilon)}\n{quality.axis}", fontsize=9)
    for one, title in zip(axes[-1], quality.disparities.values(), strict=True):
        one.set_xlabel(f"{title}{quality.unit}", fontsize=9)
    ringed = Line2D([], [], **FRONT, linestyle="--", label="Pareto front")
    handles = [*variant_handles(results), ringed]
    plotting.legend_below(figure, handles, [str(h.get_label()) for h in handles])
    where, more = ("high", "more") if quality.share else ("low", "less")
    caption = (
        f"Look for ringed marks, {where} and to the left: no other variant has both {more} {quality.name} and less "
        "disparity; marks "
        "whose 95 % bars overlap are not told apart by these seeds, and each panel has a scale of its own."
    )
    return Picture(f"{quality.name.capitalize()} against disparity", caption, plotting.as_data(figure))


def _pareto_panel(one: Axes, results: Results, epsilon: float, metric: str) -> None:
    cells = [cell for cell in results.cells if cell[1] == epsilon]
    points = []
    for cell in [*cells, *([results.reference] if results.reference else [])]:
        x, y = results.mean(cell, metric).drawn, results.mean(cell, f"overall_{results.quality.name}").drawn
        mark(one, x.mean, y, look_of(results, cell), x.half)
        points.append((x.mean, y.mean))
    points, up = points[: len(cells)], 1 if results.quality.share else -1
    best = [points[k] for k in front([(x, up * y) for x, y in points])]
    if best:
        one.plot(*zip(*best, strict=True), **FRONT, linestyle="--", linewidth=1, zorder=1)
    one.set_xlim(left=max(one.get_xlim()[0], 0.0))


def disparity_by_epsilon(results: Results) -> Picture:
    """Draw each disparity against ε, a line for each variant."""
    epsilons = epsilons_of(results)
    shown = results.quality.disparities
    figure, axes = plotting.blank(len(shown), 1, 11, 1.2 + 2.6 * len(shown), sharex=True)
    variants = [one.name for one in results.comparison.variants]
    for one, (metric, title) in zip([row[0] for row in axes], shown.items(), strict=True):
        for k, name in enumerate(variants):
            _line_over_epsilon(
                one, results, [(name, e) for e in epsilons], metric, 0.7 * (k + 0.5) / len(variants) - 0.35
            )
        if results.reference:
            one.axhline(
                results.mean(results.reference, metric).drawn.mean, color=plotting.GREY, linestyle=":", linewidth=1.2
            )
        one.set_ylim(bottom=max(one.get_ylim()[0], 0.0))
        one.set_xticks(range(len(epsilons)), [exact(e) for e in epsilons])
        one.set_xlim(-0.5, len(epsilons) - 0.5)
        one.set_ylabel(f"{title}\n{results.quality.unit.strip()}".strip(), fontsize=9)
    axes[-1][0].set_xlabel("ε (each target a place of its own)", fontsize=9)
    handles = variant_handles(results, reference_line=True)
    plotting.legend_below(figure, handles, [str(h.get_label()) for h in handles])
    alike = "predicts one class for" if results.quality.share else "is equally bad for"
    caption = (
        "Look for lines that stay near the dotted level without privacy as ε falls to the left; a line that drops "
        f"below it at small ε may only mean a model that {alike} everybody."
    )
    return Picture("Disparity against ε", caption, plotting.as_data(figure))


def _line_over_epsilon(
    one: Axes, results: Results, cells: Sequence[VariantAtEpsilon], metric: str, shift: float
) -> None:
    look = look_of(results, cells[0])
    found = [(k + shift, results.mean(cell, metric).drawn) for k, cell in enumerate(cells) if cell in results.cells]
    one.plot([x for x, _ in found], [y.mean for _, y in found], color=look["color"], linewidth=0.9, alpha=0.6)
    for x, y in found:
        mark(one, x, y, look)
