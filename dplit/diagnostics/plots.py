"""What clipping did to each group over the epochs, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dplit.fairness import plotting
from dplit.fairness.metrics.quality import QUALITIES
from dplit.fairness.monitor.plots import draw_groups, label_lower_axis
from dplit.fairness.monitor.snapshot import Snapshot

PANELS = {
    "norm_median": "gradient norm: median, quartiles",
    "clipped": "fraction clipped",
    "contribution": "mean contribution w·‖g‖",
    "direction_error": "direction error",
    "steering_cosine": "cosine of clipped sum with group",
}
SPANS = {"clipped": (-0.02, 1.02), "direction_error": (-0.02, 1.02), "steering_cosine": (-1.04, 1.04)}
"""The whole range of a figure that has one, so that pictures of two runs can be laid side by side."""


def draw(gradients: Sequence[Snapshot], gaps: Sequence[Snapshot]) -> Figure:
    """Draw a panel for each of `PANELS`, and one for the accuracy on train records minus that on validation records.

    For models without labels the last panel is of the perplexity, or the loss.

    Args:
        gradients: snapshots of split "train" in the order they were taken, at least one.
        gaps: the generalisation gap at the same steps.
    """
    figure, axes = plotting.blank(2, 3, 13.5, 7.2, dpi=150, sharex=True)
    panels = [place for row in axes for place in row]
    for place, (metric, title) in zip(panels, PANELS.items(), strict=False):
        _panel(place, gradients, metric, title)
    _quartiles(panels[0], gradients)
    quality = next((gap.quality for gap in reversed(gaps) if gap.quality in gap.per_group), "accuracy")
    _panel(panels[-1], gaps, quality, f"{quality}, train minus validation")
    label_lower_axis(axes[-1], _epochs(gradients), "epoch")
    plotting.legend_below(figure, panels[0].get_lines(), gradients[0].groups, title="group")
    return figure


def _panel(axes: Axes, history: Sequence[Snapshot], metric: str, title: str) -> None:
    draw_groups(axes, history, _epochs(history), metric, title)
    if metric in SPANS:
        axes.set_ylim(*SPANS[metric])
    if metric in (*QUALITIES, "steering_cosine"):
        axes.axhline(0.0, color=plotting.GREY, linewidth=0.8, zorder=0)


def _quartiles(axes: Axes, history: Sequence[Snapshot]) -> None:
    for k, group in enumerate(history[0].groups):
        low, high = ([snapshot.value(metric, group) for snapshot in history] for metric in ("norm_q1", "norm_q3"))
        axes.fill_between(_epochs(history), low, high, color=plotting.of_group(k), alpha=0.13, linewidth=0)
    if any(snapshot.value("norm_q1", group) > 0 for snapshot in history for group in snapshot.groups):
        axes.set_yscale("log")


def _epochs(history: Sequence[Snapshot]) -> list[int]:
    return [snapshot.epoch for snapshot in history]
