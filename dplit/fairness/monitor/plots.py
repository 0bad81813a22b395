"""Learning curves per group, as one picture; matplotlib's object interface only, so no global figure is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from dplit.fairness.metrics.rates import QUALITIES
from dplit.fairness.monitor.snapshot import Snapshot

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart with every common colour vision; yellow is left out, it is faint on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
Panel = Callable[[Axes, Sequence[Snapshot]], None]
TITLES = {"tpr": "true positive rate", "selection_rate": "selection rate"}
GAPS = {
    "accuracy_gap": "accuracy gap",
    "demographic_parity_difference": "demographic parity",
    "equal_opportunity_difference": "equal opportunity",
    "equalized_odds_difference": "equalized odds",
}


def draw(history: Sequence[Snapshot]) -> Figure:
    """Draw accuracy, loss (or selection rate), TPR by group, and the gaps between groups.

    Without labels: perplexity and loss by group, as far as they are known, and under them the gap of each.

    The lower axis is the epoch, or the step where an epoch holds several validations; the upper axis of a private run
    is the ε spent by then. What is not defined leaves a hole in its curve.

    Args:
        history: snapshots of one split in the order they were taken, at least one.

    """
    panels = _panels(history)
    figure = Figure(figsize=(10.5, 3.6 * len(panels) / 2), dpi=150, layout=_layout())
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(len(panels) // 2, 2, sharex=True).flat, panels, strict=True):
        panel(axes, history)
    _axes(figure, history)
    handles = figure.axes[0].get_lines()
    names = [_literal(group) for group in history[0].groups]
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6), title="group", frameon=False)
    return figure


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(hspace=0.05, wspace=0.05)


def _panels(history: Sequence[Snapshot]) -> list[Panel]:
    """Return what is drawn, an even number of panels; the first is by group."""
    there = dict.fromkeys(metric for look in history for metric in look.per_group)
    if "accuracy" in there:
        other = "loss" if _any(history, "loss") else "selection_rate"
        return [*(partial(_groups, metric=metric) for metric in ("accuracy", other, "tpr")), partial(_gaps, gaps=GAPS)]
    known = [metric for metric in QUALITIES if metric in there]
    gaps = [{f"{metric}_gap": f"{metric} gap"} for metric in known]
    return [*(partial(_groups, metric=metric) for metric in known), *(partial(_gaps, gaps=gap) for gap in gaps)]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    figure.savefig(path, format="png")


def figure_of(look: Snapshot, metric: str, group: str = "") -> float:
    """Return a figure, NaN where an epoch has none."""
    return next((row.value for row in look.rows if (row.metric, row.group) == (metric, group)), math.nan)


def _any(history: Sequence[Snapshot], metric: str) -> bool:
    return any(not math.isnan(figure_of(look, metric, group)) for look in history for group in look.groups)


def _groups(axes: Axes, history: Sequence[Snapshot], metric: str) -> None:
    for k, group in enumerate(history[0].groups):
        style = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": DASHES[k // 7 % 4]}
        _curve(axes, history, [figure_of(look, metric, group) for look in history], **style)
    _dress(axes, TITLES.get(metric, metric), _any(history, metric))


def _gaps(axes: Axes, history: Sequence[Snapshot], gaps: Mapping[str, str]) -> None:
    curves = {title: [figure_of(look, metric) for look in history] for metric, title in gaps.items()}
    greys = ("#000000", "#555555", "#888888", "#AAAAAA")
    for k, (values, grey) in enumerate(zip(curves.values(), greys, strict=False)):
        _curve(axes, history, values, color=grey, linestyle=DASHES[k], marker=MARKERS[k])
    known = any(not math.isnan(value) for values in curves.values() for value in values)
    _dress(axes, "difference between groups", known)
    axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])
    if known:
        axes.legend(axes.get_lines(), list(curves), frameon=False, fontsize="small")


def _curve(axes: Axes, history: Sequence[Snapshot], values: list[float], **style: str) -> None:
    every = math.ceil(len(history) / 30)
    axes.plot(_positions(history), values, linewidth=1.7, markersize=4.5, markevery=every, **style)  # type: ignore[arg-type]


def _dress(axes: Axes, label: str, known: bool) -> None:
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if not known:
        axes.text(0.5, 0.5, "not defined", transform=axes.transAxes, ha="center", va="center", color="#555555")
        axes.set_yticks([])


def _by_step(history: Sequence[Snapshot]) -> bool:
    return len({look.epoch for look in history}) < len(history)


def _positions(history: Sequence[Snapshot]) -> list[int]:
    return [look.step if _by_step(history) else look.epoch for look in history]


def _axes(figure: Figure, history: Sequence[Snapshot]) -> None:
    for axes in figure.axes[-2:]:
        axes.set_xlabel("step" if _by_step(history) else "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        if len(history) == 1:
            axes.set_xlim(_positions(history)[0] - 0.5, _positions(history)[0] + 0.5)
    if all(look.epsilon is not None for look in history):
        for axes in figure.axes[:2]:
            _budget_axis(axes, history)


def _budget_axis(axes: Axes, history: Sequence[Snapshot]) -> None:
    chosen = history[:: math.ceil(len(history) / 7)]
    above = axes.secondary_xaxis("top")
    above.set_xticks(_positions(history)[:: math.ceil(len(history) / 7)], [f"{look.epsilon:.2g}" for look in chosen])
    above.set_xlabel(f"ε spent, at δ = {history[-1].delta:g}")


def _literal(name: str) -> str:
    return name.replace("$", r"\$")
