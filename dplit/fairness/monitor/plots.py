"""Learning curves per group, as one picture, and when callbacks draw theirs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dplit.fairness import plotting
from dplit.fairness.metrics.quality import QUALITIES
from dplit.fairness.monitor.snapshot import Snapshot

Panel = Callable[[Axes, Sequence[Snapshot]], None]
TITLES = {"tpr": "true positive rate", "selection_rate": "selection rate"}
GAPS = {
    "accuracy_gap": "accuracy gap",
    "demographic_parity_difference": "demographic parity",
    "equal_opportunity_difference": "equal opportunity",
    "equalized_odds_difference": "equalized odds",
}
GAP_GREYS = ("#000000", "#555555", "#888888", "#AAAAAA")


class DrawsAtEnd(Callback):
    """A callback that draws when fit ends, and when fit fails or is stopped."""

    @abstractmethod
    def draw(self) -> None:
        """Draw the epochs of this fit so far; called at the end of each fit, also where no epoch was kept."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves."""
        self.draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the epochs before fit failed or was stopped."""
        if trainer.state.fn == "fit":
            self.draw()


def draw(history: Sequence[Snapshot]) -> Figure:
    """Draw accuracy, loss (or selection rate), TPR by group, and the gaps between groups.

    Without labels: perplexity and loss by group, as far as they are known, and under them the gap of each.

    The lower axis is the epoch, or the step where an epoch holds several validations; the upper axis of a private run
    is the ε spent by then. What is not defined leaves a hole in its curve.

    Args:
        history: snapshots of one split in the order they were taken, at least one.

    """
    panels = _panels(history)
    rows = len(panels) // 2
    figure, axes = plotting.blank(rows, 2, 10.5, 3.6 * rows, dpi=150, sharex=True)
    for panel, place in zip(panels, (axis for row in axes for axis in row), strict=True):
        panel(place, history)
    _label_axes(axes, history)
    plotting.legend_below(figure, axes[0][0].get_lines(), history[0].groups, title="group")
    return figure


def _panels(history: Sequence[Snapshot]) -> list[Panel]:
    """Return an even number of panels; the first is by group."""
    per_group = dict.fromkeys(metric for snapshot in history for metric in snapshot.per_group)
    if "accuracy" in per_group:
        second = "loss" if any(snapshot.is_defined("loss") for snapshot in history) else "selection_rate"
        return [
            *(partial(_group_panel, metric=metric) for metric in ("accuracy", second, "tpr")),
            partial(_gap_panel, gaps=GAPS),
        ]
    qualities = [metric for metric in QUALITIES if metric in per_group]
    gaps = [{f"{metric}_gap": f"{metric} gap"} for metric in qualities]
    return [
        *(partial(_group_panel, metric=metric) for metric in qualities),
        *(partial(_gap_panel, gaps=gap) for gap in gaps),
    ]


def _group_panel(axes: Axes, history: Sequence[Snapshot], metric: str) -> None:
    draw_groups(axes, history, _positions(history), metric, TITLES.get(metric, metric))


def draw_groups(axes: Axes, history: Sequence[Snapshot], positions: Sequence[int], metric: str, label: str) -> None:
    """Draw a curve of one metric for each group.

    Args:
        axes: to draw on.
        history: snapshots, at least one.
        positions: of the snapshots on the lower axis.
        metric: with a value by group.
        label: of the vertical axis.
    """
    for k, group in enumerate(history[0].groups):
        values = [snapshot.value(metric, group) for snapshot in history]
        plotting.curve(axes, positions, values, plotting.of_group_curve(k))
    axes.set_ylabel(label)
    if not any(snapshot.is_defined(metric) for snapshot in history):
        plotting.mark_undefined(axes)


def _gap_panel(axes: Axes, history: Sequence[Snapshot], gaps: Mapping[str, str]) -> None:
    for k, metric in enumerate(gaps):
        style = {"color": GAP_GREYS[k], "marker": plotting.MARKERS[k], "linestyle": plotting.DASHES[k]}
        plotting.curve(axes, _positions(history), [snapshot.value(metric) for snapshot in history], style)
    axes.set_ylabel("difference between groups")
    if any(not math.isnan(snapshot.value(metric)) for snapshot in history for metric in gaps):
        axes.legend(axes.get_lines(), list(gaps.values()), frameon=False, fontsize="small")
    else:
        plotting.mark_undefined(axes)
    axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])


def _by_step(history: Sequence[Snapshot]) -> bool:
    return len({snapshot.epoch for snapshot in history}) < len(history)


def _positions(history: Sequence[Snapshot]) -> list[int]:
    return [snapshot.step if _by_step(history) else snapshot.epoch for snapshot in history]


def _label_axes(axes: Sequence[Sequence[Axes]], history: Sequence[Snapshot]) -> None:
    label_lower_axis(axes[-1], _positions(history), "step" if _by_step(history) else "epoch")
    if all(snapshot.epsilon is not None for snapshot in history):
        for upper in axes[0]:
            _add_epsilon_axis(upper, history)


def label_lower_axis(axes: Sequence[Axes], positions: Sequence[int], label: str) -> None:
    """Name the lower axis and give it whole numbers as ticks; a single position stands in the middle."""
    for lower in axes:
        lower.set_xlabel(label)
        lower.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(positions) == 1:
        axes[0].set_xlim(positions[0] - 0.5, positions[0] + 0.5)


def _add_epsilon_axis(axes: Axes, history: Sequence[Snapshot]) -> None:
    every = math.ceil(len(history) / 7)
    above = axes.secondary_xaxis("top")
    above.set_xticks(_positions(history)[::every], [f"{snapshot.epsilon:.2g}" for snapshot in history[::every]])
    above.set_xlabel(f"ε spent, at δ = {history[-1].delta:g}")
