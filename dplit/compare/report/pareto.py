"""Figures with a mark for each variant: accuracy, or perplexity, against disparity, and disparity against ε."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dplit.compare.analysis.results import Results
from dplit.compare.report.drawing import (
    Picture,
    contenders_at,
    draw_mark,
    epsilons_of,
    look_of,
    variant_handles,
)
from dplit.compare.run.plan import VariantAtEpsilon, exact
from dplit.fairness import plotting


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (disparity, accuracy) points that no other point beats, by rising disparity.

    A point is beaten by a point with no more disparity and no less accuracy that is better in one of the two.

    Example:
        >>> front([(0.2, 0.9), (0.1, 0.8), (0.3, 0.85)])
        [1, 0]
    """

    def beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in points)

    kept = [k for k, point in enumerate(points) if not any(map(math.isnan, point)) and not beaten(point)]
    return sorted(kept, key=lambda k: points[k])


def pareto(results: Results) -> Picture:
    """Draw the figure that models are judged by against each disparity, one row of panels for each ε.

    Rings around marks show the Pareto front.
    """
    epsilons, quality = epsilons_of(results), results.quality
    figure, rows = plotting.blank(len(epsilons), len(quality.disparities), 11, 1.2 + 2.7 * len(epsilons))
    for row, epsilon in zip(rows, epsilons, strict=True):
        for panel, metric in zip(row, quality.disparities, strict=True):
            _draw_pareto_panel(panel, results, epsilon, metric)
        row[0].set_ylabel(f"ε = {exact(epsilon)}\n{quality.axis}", fontsize=9)
    for panel, title in zip(rows[-1], quality.disparities.values(), strict=True):
        panel.set_xlabel(f"{title}{quality.unit}", fontsize=9)
    handles = [*variant_handles(results), _front_line([], [])]
    plotting.legend_below(figure, handles, [str(handle.get_label()) for handle in handles])
    where, more = ("high", "more") if quality.share else ("low", "less")
    caption = (
        f"Look for ringed marks, {where} and to the left: no other variant has both {more} {quality.name} and less "
        "disparity; marks whose 95 % bars overlap are not told apart by these seeds, and each panel has a scale of its own."
    )
    return Picture(f"{quality.name.capitalize()} against disparity", caption, plotting.as_data(figure))


def _front_line(x: Sequence[float], y: Sequence[float]) -> Line2D:
    """Return a dashed line with a ring around each point."""
    grey = plotting.GREY
    rings = Line2D(x, y, color=grey, marker="o", markersize=13, mfc="none", mec=grey, linestyle="--", linewidth=1)
    rings.set(label="Pareto front", zorder=1)
    return rings


def _draw_pareto_panel(panel: Axes, results: Results, epsilon: float, metric: str) -> None:
    overall = f"overall_{results.quality.name}"
    private = []
    for contender in contenders_at(results, epsilon, with_reference=True):
        x, y = results.mean(contender, metric).drawn, results.mean(contender, overall).drawn
        draw_mark(panel, x.mean, y, look_of(results, contender), x.half)
        if contender.epsilon is not None:
            private.append((x.mean, y.mean))
    sign = 1 if results.quality.share else -1
    best = [private[k] for k in front([(x, sign * y) for x, y in private])]
    if best:
        panel.add_line(_front_line([x for x, _ in best], [y for _, y in best]))
    panel.set_xlim(left=max(panel.get_xlim()[0], 0.0))


def disparity_by_epsilon(results: Results) -> Picture:
    """Draw each disparity against ε, one line for each variant."""
    quality = results.quality
    height = 1.2 + 2.6 * len(quality.disparities)
    figure, rows = plotting.blank(len(quality.disparities), 1, 11, height, sharex=True)
    for (panel,), (metric, title) in zip(rows, quality.disparities.items(), strict=True):
        _draw_disparity_panel(panel, results, metric)
        panel.set_ylabel(f"{title}\n{quality.unit.strip()}".strip(), fontsize=9)
    rows[-1][0].set_xlabel("ε (targets at equal distances)", fontsize=9)
    handles = variant_handles(results, reference_line=True)
    plotting.legend_below(figure, handles, [str(handle.get_label()) for handle in handles])
    alike = "predicts one class for" if quality.share else "is equally bad for"
    caption = (
        "Look for lines that stay near the dotted level without privacy as ε falls to the left; a line that drops "
        f"below it at small ε may only mean a model that {alike} everybody."
    )
    return Picture("Disparity against ε", caption, plotting.as_data(figure))


def _draw_disparity_panel(panel: Axes, results: Results, metric: str) -> None:
    epsilons, variants = epsilons_of(results), results.comparison.variants
    for k, variant in enumerate(variants):
        contenders = [VariantAtEpsilon(variant.name, epsilon) for epsilon in epsilons]
        _draw_line_over_epsilon(panel, results, contenders, metric, 0.7 * (k + 0.5) / len(variants) - 0.35)
    if results.reference:
        level = results.mean(results.reference, metric).drawn.mean
        panel.axhline(level, color=plotting.GREY, linestyle=":", linewidth=1.2)
    panel.set_ylim(bottom=max(panel.get_ylim()[0], 0.0))
    panel.set_xticks(range(len(epsilons)), [exact(epsilon) for epsilon in epsilons])
    panel.set_xlim(-0.5, len(epsilons) - 0.5)


def _draw_line_over_epsilon(
    panel: Axes, results: Results, contenders: Sequence[VariantAtEpsilon], metric: str, shift: float
) -> None:
    look = look_of(results, contenders[0])
    marks = [
        (k + shift, results.mean(contender, metric).drawn)
        for k, contender in enumerate(contenders)
        if contender in results.contenders
    ]
    panel.plot([x for x, _ in marks], [y.mean for _, y in marks], color=look["color"], linewidth=0.9, alpha=0.6)
    for x, y in marks:
        draw_mark(panel, x, y, look)
