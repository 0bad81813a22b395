"""What clipping did to each group over the epochs, as one picture in the manner of `dplit.fairness.monitor.plots`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from dplit.fairness.metrics.rates import QUALITIES
from dplit.fairness.monitor.plots import COLOURS, DASHES, MARKERS, figure_of
from dplit.fairness.monitor.snapshot import Snapshot

PANELS = {
    "norm_median": "gradient norm: median, quartiles",
    "clipped": "fraction clipped",
    "contribution": "mean contribution w·‖g‖",
    "direction_error": "direction error",
    "steering_cosine": "cosine of clipped sum with group",
}
SPANS = {"clipped": (-0.02, 1.02), "direction_error": (-0.02, 1.02), "steering_cosine": (-1.04, 1.04)}
"""The whole range of what has one, so that pictures of two runs can be laid side by side."""


def draw(gradients: Sequence[Snapshot], gaps: Sequence[Snapshot]) -> Figure:
    """Draw a panel for each of `PANELS` and one for the accuracy on train records over that on validation.

    Of models that decide nothing it is the perplexity, or the loss.

    Args:
        gradients: snapshots of split "train" in the order they were taken, at least one.
        gaps: the generalisation gap at the same steps.
    """
    figure = Figure(figsize=(13.5, 7.2), dpi=150, layout=ConstrainedLayoutEngine(hspace=0.05, wspace=0.05))
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(2, 3, sharex=True).flat)
    for axes, (metric, title) in zip(panels, PANELS.items(), strict=False):
        _panel(axes, gradients, metric, title)
    _quartiles(panels[0], gradients)
    quality = next((look.quality for look in reversed(gaps) if look.quality in look.per_group), "accuracy")
    _panel(panels[5], gaps, quality, f"{quality}, train minus validation")
    _epochs(figure, gradients)
    names = [name.replace("$", r"\$") for name in gradients[0].groups]
    handles = panels[0].get_lines()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6), title="group", frameon=False)
    return figure


def _panel(axes: Axes, history: Sequence[Snapshot], metric: str, title: str) -> None:
    for k, group in enumerate(history[0].groups):
        style = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": DASHES[k // 7 % 4]}
        _curve(axes, history, [figure_of(look, metric, group) for look in history], **style)
    _dress(
        axes, title, any(not math.isnan(figure_of(look, metric, group)) for look in history for group in look.groups)
    )
    if metric in SPANS:
        axes.set_ylim(*SPANS[metric])
    if metric in (*QUALITIES, "steering_cosine"):
        axes.axhline(0.0, color="#555555", linewidth=0.8, zorder=0)


def _curve(axes: Axes, history: Sequence[Snapshot], values: list[float], **style: str) -> None:
    every = math.ceil(len(history) / 30)
    axes.plot([look.epoch for look in history], values, linewidth=1.7, markersize=4.5, markevery=every, **style)  # type: ignore[arg-type]


def _quartiles(axes: Axes, history: Sequence[Snapshot]) -> None:
    for k, group in enumerate(history[0].groups):
        low, high = ([look.of(metric, group) for look in history] for metric in ("norm_q1", "norm_q3"))
        axes.fill_between([look.epoch for look in history], low, high, color=COLOURS[k % 7], alpha=0.13, linewidth=0)
    if any(look.of("norm_q1", group) > 0 for look in history for group in look.groups):
        axes.set_yscale("log")


def _dress(axes: Axes, title: str, known: bool) -> None:
    axes.set_ylabel(title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if not known:
        axes.text(0.5, 0.5, "not defined", transform=axes.transAxes, ha="center", va="center", color="#555555")
        axes.set_yticks([])


def _epochs(figure: Figure, history: Sequence[Snapshot]) -> None:
    for axes in figure.axes[3:]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(history) == 1:
        figure.axes[0].set_xlim(history[0].epoch - 0.5, history[0].epoch + 0.5)
